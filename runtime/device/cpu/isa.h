/* One source, several instruction set levels.
 *
 * Files cpu/k_*.c and cpu/ops_table.c are compiled once a level with LS_KERNEL_ISA set to generic,
 * avx2, avx512, avx512_bf16 (x86-64) or generic, sve, sve_bf16 (aarch64). The level amx_bf16 has
 * only those that multiply matrices; the rest is avx512_bf16's (LS_KERNEL_BASE).
 * Every symbol they export goes through LS_ISA_NAME, so that ls_cpu_norm_forward becomes
 * ls_cpu_norm_forward_avx2. Kernels are plain C written for the vectoriser (or GCC vector types);
 * they differ between levels by flags only, except for products in registers and for what converts
 * to bf16, which are intrinsics (k_attention_pairs.h, k_bf16*.h and the k_gemm_*.h of an
 * instruction). All other files of the folder are compiled once, for the baseline. */
#ifndef LS_DEVICE_CPU_ISA_H
#define LS_DEVICE_CPU_ISA_H

#define LS_ISA_PASTE_(a, b) a##_##b
#define LS_ISA_PASTE(a, b)  LS_ISA_PASTE_(a, b)
#ifdef LS_KERNEL_ISA
#define LS_ISA_NAME(name) LS_ISA_PASTE(name, LS_KERNEL_ISA)
#ifndef LS_KERNEL_BASE
#define LS_KERNEL_BASE LS_KERNEL_ISA
#endif
#define LS_ISA_BASE_NAME(name) LS_ISA_PASTE(name, LS_KERNEL_BASE)
#endif

#endif
