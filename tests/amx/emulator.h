/* AMX on processors without it, for tests.
 *
 * Linked into a program (CMake target ls_amx_emulator) or preloaded (libls_amx.so), it installs a
 * handler of SIGILL before main that decodes and carries out
 *   ldtilecfg, sttilecfg, tilerelease, tilezero, tileloadd, tileloaddt1, tilestored, tdpbf16ps
 * with every form of address that they have, on tiles of the calling thread, so that code for AMX
 * runs on any x86-64, a signal of some microseconds for each instruction. runtime/base/cpu.c then
 * allows the level amx_bf16 where the processor has all that comes before it.
 *
 * Palette 1 (8 tiles of at most 16 rows of 64 bytes) and its arithmetic are those of Intel's
 * manual (Software Developer's Manual, volume 2, TDPBF16PS): for an element, products of even and
 * of odd positions along K are summed apart, in fp32, in order, each by a fused multiply-add
 * rounded to nearest even, denormals taken and given as zero; then the two sums are added, and
 * their sum to the tile. Whatever is an exception there (a configuration that is out of range or
 * has reserved bytes set, tiles that are not configured, shapes that do not match, one tile twice
 * in a product) ends the program with SIGABRT after a line on stderr that says what was found and
 * what is allowed; other instructions of AMX end it likewise. Any other SIGILL goes to the handler
 * that was there before.
 *
 * On a processor with AMX of its own nothing is installed: the same tests then test the processor.
 */
#ifndef LS_TESTS_AMX_EMULATOR_H
#define LS_TESTS_AMX_EMULATOR_H

/* 1: AMX is emulated in this process; 0: the processor has it. runtime/base/cpu.c refers to it
 * weakly. */
int ls_amx_emulated(void);

#endif
