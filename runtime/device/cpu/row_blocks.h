/* Sums over rows are taken in blocks of rows, each into its own partial sums, and these are added
 * in order: at most LS_ROW_BLOCKS_MAX blocks, of LS_ROW_BLOCK_MIN rows at least. */
#ifndef LS_DEVICE_CPU_ROW_BLOCKS_H
#define LS_DEVICE_CPU_ROW_BLOCKS_H

#include <stdint.h>

enum { LS_ROW_BLOCKS_MAX = 256, LS_ROW_BLOCK_MIN = 32 };

typedef struct ls_row_blocks {
    int64_t rows, block_rows, count;
} ls_row_blocks;

static inline ls_row_blocks ls_row_blocks_of(int64_t rows) {
    int64_t block_rows = (rows + LS_ROW_BLOCKS_MAX - 1) / LS_ROW_BLOCKS_MAX;
    block_rows = block_rows < LS_ROW_BLOCK_MIN ? LS_ROW_BLOCK_MIN : block_rows;
    return (ls_row_blocks){rows, block_rows, (rows + block_rows - 1) / block_rows};
}

#endif
