# The service that hangs and its customers: the released uvicorn 0.12.2 with what it pins, nothing changed, and hangwatch beside it.
FROM python:3.11-slim
WORKDIR /order-desk
RUN pip install --no-cache-dir uvicorn==0.12.2 click==7.1.2 h11==0.9.0 httptools==0.6.1
COPY pyproject.toml README.md LICENSE /src/
COPY hangwatch /src/hangwatch
COPY collectors /src/collectors
RUN pip install --no-cache-dir "/src[pyspy]" && rm -r /src
COPY hangwatch/demo/service.py hangwatch/demo/client.py ./
RUN useradd --uid 10001 --no-create-home desk && install -d -o 10001 -g 10001 -m 0700 /var/lib/hangwatch
USER 10001:10001
