/* Training steps of llm.c's CPU trainer on given tokens. Not part of the build: cpu_step.py
 * compiles it with -I to a checkout of llm.c, whose train_gpt2.c it includes without its main.
 *
 *   llmc_step MODEL.bin TOKENS B T STEPS LR      (TOKENS: B T + 1 little-endian uint16)
 *
 * Prints "loss seconds" for each step. */
#define TESTING
#include "train_gpt2.c"

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: llmc_step MODEL.bin TOKENS B T STEPS LR\n");
        return 2;
    }
    const int B = atoi(argv[3]), T = atoi(argv[4]), steps = atoi(argv[5]);
    GPT2 model;
    gpt2_build_from_checkpoint(&model, argv[1]);
    const size_t n = (size_t)B * (size_t)T;
    uint16_t *tokens = mallocCheck((n + 1) * sizeof *tokens);
    int *inputs = mallocCheck(n * sizeof *inputs), *targets = mallocCheck(n * sizeof *targets);
    FILE *file = fopenCheck(argv[2], "rb");
    freadCheck(tokens, sizeof *tokens, n + 1, file);
    fcloseCheck(file);
    for (size_t i = 0; i < n; i++) {
        inputs[i] = tokens[i];
        targets[i] = tokens[i + 1];
    }
    for (int step = 1; step <= steps; step++) {
        struct timespec start, end;
        clock_gettime(CLOCK_MONOTONIC, &start);
        gpt2_forward(&model, inputs, targets, B, T);
        gpt2_zero_grad(&model);
        gpt2_backward(&model);
        gpt2_update(&model, (float)atof(argv[6]), 0.9f, 0.999f, 1e-8f, 0.0f, step);
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("%.9g %.6f\n", (double)model.mean_loss,
               (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec));
        fflush(stdout);
    }
    gpt2_free(&model);
    free(tokens);
    free(inputs);
    free(targets);
    return 0;
}
