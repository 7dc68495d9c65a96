FROM python:3.11-slim
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY workerkit workerkit
RUN pip install --no-cache-dir -c constraints.txt . && useradd --system worker
USER worker
