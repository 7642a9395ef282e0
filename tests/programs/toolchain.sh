#!/bin/sh
# A compiler, an assembler, a linker and an archiver, then the program that they made.
set -e
cat >part.c <<C
int twice(int n) { return 2 * n; }
static char room[8 << 20];
char *place(void) { return room; }
C
cat >main.c <<C
#include <stdio.h>
int twice(int);
char *place(void);
int main(void) { place()[12345] = 1; printf("%d\n", twice(21) + place()[54321]); return 0; }
C
cc -O1 -c part.c main.c
ar rcsD libpart.a part.o
cc -o program main.o libpart.a
./program
strip program
./program
for linker in gold lld mold; do
    if command -v "ld.$linker" >/dev/null; then cc -fuse-ld="$linker" -o "program-$linker" main.o libpart.a && "./program-$linker"; fi
done
