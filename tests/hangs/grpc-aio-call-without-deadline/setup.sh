#!/bin/bash
# usage: setup.sh PORT   starts the stand-in backend on 127.0.0.1:PORT and prints its pid
cd "$(dirname "$0")"
python upstream.py "$1" >/dev/null 2>&1 &
pid=$!
for i in $(seq 50); do (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null && break; sleep 0.1; done
echo $pid
