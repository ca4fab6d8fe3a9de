#!/bin/sh
# LocalStack runs this when it is ready: the bucket of the archive.
awslocal s3api create-bucket --bucket tracker-archive
