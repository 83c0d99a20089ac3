#!/bin/sh
# script.sh PROGRAM BENCH: tests/gpu.sh to its end on a machine without a GPU. PROGRAM and BENCH are lockstep and bench_gpu on the
# emulated one, the other programs and nvidia-smi stand-ins, which pass, fail, skip or hang as they are told.
. "$(dirname "$0")/../launch/lib.sh"
built=$work/build kept=$work/build/results
mkdir -p "$work/path" "$built/bin" "$built/benchmarks/gpu" "$built/tests/device" "$built/tests/gpu" "$built/tests/layouts"
ln -s "$1" "$built/bin/lockstep"
ln -s "$2" "$built/benchmarks/gpu/bench_gpu"
echo 580.65.06 >"$work/driver"
cat >"$work/path/nvidia-smi" <<SMI
#!/bin/sh
case \$1 in
-L) echo "GPU 0: Emulated (UUID: GPU-0)" ;;
*memory*) echo "Emulated, \$(cat "$work/driver"), 4096 MiB" ;;
*) echo "Emulated, \$(cat "$work/driver")" ;;
esac
SMI
# By its clock no time passes: which checks begin does not depend on how fast this machine is. Each may take what is left, 235 s.
cat >"$work/path/date" <<DATE
#!/bin/sh
[ "\$*" = +%s ] && echo 1 || exec "$(command -v date)" "\$@"
DATE
# Each notes that it ran, and ends as the file of its name says (0).
cat >"$work/stand-in" <<STAND_IN
#!/bin/sh
name=\${0##*/}
echo "\$name \$*" >>"$work/ran"
echo "\$name speaks"
how=\$(cat "$work/how.\$name" 2>/dev/null || echo 0)
[ "\$how" = hang ] && exec sleep 300
exit "\$how"
STAND_IN
chmod +x "$work/path/nvidia-smi" "$work/path/date" "$work/stand-in"
for name in device/test_kernels gpu/test_cudnn gpu/test_comm_nccl gpu/test_train_gpu layouts/test_layouts; do
    ln -s "$work/stand-in" "$built/tests/$name"
done
# try [NAME=VALUE...]: the script, with so little time that the longest check does not begin.
try() {
    env PATH="$work/path:$PATH" GPU_SH_BUILD="$built" DEVICE=emulated REPEATS=0 DATA_BYTES=400000 TORCH_PYTHON= LLMC_DIR= LIMIT_S=235 \
        MODELS=gpt2-124m:1:2:1:16:20 MODEL_SETTINGS="model.layers=1 model.channels=16 model.heads=2 model.ffn=32 model.context=16" \
        "$@" "$root/tests/gpu.sh"
}
# line CHECK WORD: of the table
line() {
    prints "^$1  *$2  *[0-9]* s\$"
}

echo 77 >"$work/how.test_cudnn"
echo 1 >"$work/how.test_train_gpu"
gives 1 try PARTS="tests benchmarks"
line "operations against the reference" passed
line "operations beside their floors" passed
line "tokens/s of gpt2-124m" passed
line "attention by cuDNN against the reference" skipped
line "NCCL on 4 ranks" passed
line "training on 2 ranks against the CPU" "FAILED (1)"
line "tokens/s of gpt2-124m by torch.compile" skipped
prints "^did not fit into 235 s"
prints "^   train, checkpoint GPU -> CPU -> GPU, eval, sample (240 s)"
prints "^of a copy: LayerNorm forward, %  *[0-9.]*  *least 85"
prints "^of cuBLASLt alone: product 8192^3, %  *[0-9.]*  *least 97"
prints "^of a product's rate: attention own forward, T=4096 D=128, %  *[0-9.]*  *least 70"
prints "^gpt2-124m: device memory beside its plan, % off  *[0-9.]*  *most 3"
prints "^gpt2-124m: tokens/s, times those of torch.compile  *-  *least 1.1  *not measured"
prints "^| memory-bound kernels beside a copy, at least 85 % | [0-9.]* to [0-9.]* % (least: .*) | Emulated, 580.65.06, 20..-..-.. |"
prints "^| GPT-2 124M, tokens/s .* | [0-9]* tokens/s; beside llm.c not measured"
holds grep -q "test_comm_nccl speaks" "$kept/log.NCCL-on-2-ranks"

# What has passed or failed is not run again, what was skipped is.
rm "$work/how.test_cudnn"
: >"$work/ran"
gives 1 try PARTS=tests RESUME=1
line "attention by cuDNN against the reference" passed
line "training on 2 ranks against the CPU" "FAILED (1)"
line "tokens/s of gpt2-124m" passed
prints "^of a copy: LayerNorm forward, %"
holds [ "$(cat "$work/ran")" = "test_cudnn " ]

# Another driver: all of it. What hangs is cut off, and then to be run again.
echo 590.1 >"$work/driver"
echo hang >"$work/how.test_cudnn"
rm "$work/how.test_train_gpu"
gives 1 try PARTS=tests RESUME=1 CHECK_S=5
line "attention by cuDNN against the reference" "CUT OFF"
line "training on 2 ranks against the CPU" passed
fails grep -q "^tokens/s" "$work/out"
rm "$work/how.test_cudnn"
gives 1 try PARTS=tests RESUME=1
line "attention by cuDNN against the reference" passed
holds [ "$(grep -c '^attention by cuDNN' "$work/out")" = 2 ]

gives 2 try PARTS=test
says "its words are tests, benchmarks, sanitizer"
rm "$work/path/nvidia-smi"
printf '#!/bin/sh\nexit 9\n' >"$work/path/nvidia-smi"
chmod +x "$work/path/nvidia-smi"
gives 77 try
prints "^skipped: nvidia-smi lists no GPU"
passed
