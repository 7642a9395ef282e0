#!/bin/sh
# git maps its packs, its index and the files that it hashes.
set -e
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
export GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_DATE='1700000000 +0000' GIT_CONFIG_NOSYSTEM=1 HOME="$PWD"
git init -q -b main tree
cd tree
for n in 1 2 3 4 5; do
    seq $n 7 200000 >"numbers-$n"
    truncate -s 6M "sparse-$n"
    git add -A
    git commit -q -m "commit $n"
done
git gc -q
git fsck --full 2>/dev/null
git log --format=%H
git diff --stat HEAD~3 | tail -n 1
git -c pack.windowMemory=10m repack -q -a -d
git cat-file -p HEAD:numbers-3 | cksum
git grep -c 777 HEAD~1 -- 'numbers-*'
cd .. && git clone -q tree clone && git -C clone rev-parse HEAD
rm -rf tree clone
