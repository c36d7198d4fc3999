# psftr with the prebuilt CPU kernel.
#   docker build -t psftr .                              PyTorch for the CPU
#   docker build -t psftr --build-arg TORCH=cu130 .      PyTorch for CUDA; run it with --gpus all
#   docker run --rm -v "$PWD:/work" psftr train split.index=0
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS wheel
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
WORKDIR /source
COPY setup.py setup.cfg pyproject.toml MANIFEST.in README.md LICENSE ./
COPY conf ./conf
COPY psftr ./psftr
RUN PSFTR_BUILD_NATIVE=1 pip wheel --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
# cpu, or the name of a CUDA build of PyTorch
ARG TORCH=cpu
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/${TORCH} "torch>=2.11" "torchvision>=0.26"
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/*.whl)[video]"
RUN useradd --create-home psftr
USER psftr
WORKDIR /work
ENTRYPOINT ["psftr"]
CMD ["--help"]
