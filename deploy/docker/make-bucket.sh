#!/bin/sh
# LocalStack runs this when it is ready: the bucket of the archive.
set -e
awslocal s3api create-bucket --bucket tracker-archive
awslocal s3api put-bucket-versioning --bucket tracker-archive --versioning-configuration Status=Enabled
