# One image for every service: Python, Debian's Java runtime, the jars for Spark, the code.

FROM maven:3.9-eclipse-temurin-21 AS jars
WORKDIR /jars
COPY jars/spark/pom.xml .
RUN --mount=type=cache,target=/root/.m2 mvn -B -q package

# The user of the services can read all files, whatever the umask of the clone was. In a stage of its
# own, because a chmod in the image would store the files a second time.
FROM python:3.13-slim-trixie AS code
WORKDIR /code
COPY . .
RUN chmod -R a+rX .

FROM python:3.13-slim-trixie
ENV PYTHONUNBUFFERED=1
RUN apt-get update \
    && apt-get install -y --no-install-recommends openjdk-21-jre-headless \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app
RUN useradd --uid 10001 --user-group --home-dir /app --no-create-home --shell /usr/sbin/nologin app \
    && install -d -o app -g app data spark-master

# Every package but PySpark has a wheel. PySpark is pure Python. So no compiler is needed.
COPY requirements.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    PIP_ROOT_USER_ACTION=ignore pip install --require-hashes --only-binary=:all: --no-binary=pyspark \
    -r requirements.txt

COPY --from=jars /jars/lib jars/spark/lib

# The class-data archive halves the start of a batch run. It is valid only for this Java and for these
# jars at these paths, so it is made here. It needs no other files: a change to them keeps this layer.
COPY --from=code /code/pipeline pipeline
COPY --from=code /code/batch_processor.py .
RUN python -m pipeline.batch.archive

COPY --from=code /code .

# A new named volume takes its owner from its directory (data, spark-master).
ENV DATA_DIR=/app/data
# The rest of the container is read-only.
ENV MPLCONFIGDIR=/tmp/matplotlib
USER app
