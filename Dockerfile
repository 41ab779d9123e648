# Two images: `docker build --target cpu .` and `docker build --target gpu .`. Neither has been built by its authors.

FROM python:3.12-slim-bookworm AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-deps --no-cache-dir --wheel-dir /wheels .

FROM python:3.12-slim-bookworm AS cpu
COPY requirements-cpu.lock /tmp/
COPY --from=wheel /wheels /wheels
# The lock names CPU builds of torch, which PyTorch's own index has.
RUN pip install --no-cache-dir --no-deps --extra-index-url https://download.pytorch.org/whl/cpu -r /tmp/requirements-cpu.lock \
    && pip install --no-cache-dir --no-deps /wheels/*.whl \
    && useradd --uid 1000 --create-home apportion
USER 1000
WORKDIR /home/apportion
CMD ["apportion", "--help"]

# vLLM's own image brings CUDA, torch and vLLM; what it has already stays as it is.
FROM vllm/vllm-openai:v0.32.0 AS gpu
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/apportion-*.whl)[serve,postgres,otel]" \
    && (id -u 1000 >/dev/null 2>&1 || useradd --uid 1000 --create-home apportion)
USER 1000
ENV HOME=/tmp
WORKDIR /tmp
ENTRYPOINT []
CMD ["apportion", "--help"]
