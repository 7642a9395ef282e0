/*
 * The words of a script, and how an answer is written. README.md beside this file describes the language.
 */
#ifndef WORDS_H
#define WORDS_H

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096L
#define UNIT (2L << 20)
#define COUNT_OF(ARRAY) (sizeof(ARRAY) / sizeof *(ARRAY))

/* ---- lines, words, numbers ---- */

static size_t line_number, word_count;
static char line[1024], spread[1024], *words[24];

__attribute__((noreturn, format(printf, 1, 2))) static void give_up(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fflush(stdout);
    fprintf(stderr, "line %zu: %s: ", line_number, line);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    _exit(2);
}

static const char *word(size_t at) {
    if (at >= word_count)
        give_up("a word is missing");
    return words[at];
}

/* Whether the word stands anywhere from `first` on. */
static int has(const char *name, size_t first) {
    for (size_t at = first; at < word_count; at++)
        if (strcmp(words[at], name) == 0)
            return 1;
    return 0;
}

static int is(const char *name) { return strcmp(words[0], name) == 0; }

/* 4096, 4k, 8m-4k, 1m+100, 3h+1p. */
static int64_t number_of(const char *text) {
    static const int64_t units[] = {1 << 10, 1 << 20, 1 << 30, PAGE, UNIT};
    int64_t sum = 0, sign = 1;
    for (const char *at = text;; at++) {
        char *end;
        if (*at < '0' || *at > '9')
            give_up("no number: %s", text);
        int64_t value = strtoll(at, &end, 10);
        const char *suffix = *end ? strchr("kmgph", *end) : NULL;
        if (suffix) {
            value *= units[suffix - "kmgph"];
            end++;
        }
        sum += sign * value;
        if (!*end)
            return sum;
        if (*end != '+' && *end != '-')
            give_up("no number: %s", text);
        sign = *end == '+' ? 1 : -1;
        at = end;
    }
}

static int64_t number(size_t at) { return number_of(word(at)); }

static int64_t number_or(size_t at, int64_t otherwise) { return at < word_count ? number(at) : otherwise; }

static uint8_t hex_byte(const char *text) {
    char *end;
    long value = strtol(text, &end, 16);
    if (end == text || *end || value < 0 || value > 255)
        give_up("no byte: %s", text);
    return (uint8_t)value;
}

struct named {
    const char *name;
    int value;
};

static int value_of(const char *name, const struct named *known, size_t count) {
    for (size_t at = 0; at < count; at++)
        if (strcmp(name, known[at].name) == 0)
            return known[at].value;
    give_up("what is %s?", name);
}

/* The next line that is no comment, split into words. */
static int next_line(FILE *script) {
    while (fgets(line, sizeof line, script)) {
        line_number++;
        line[strcspn(line, "\n")] = 0;
        strcpy(spread, line);
        word_count = 0;
        for (char *rest = spread, *one; (one = strtok_r(rest, " \t", &rest)) && word_count < COUNT_OF(words);)
            words[word_count++] = one;
        if (word_count > 0 && words[0][0] != '#')
            return 1;
    }
    return 0;
}

/* The script in memory: a forked child would share the position of an open file with its parent. */
static FILE *script_of(const char *name) {
    static char text[1 << 20];
    FILE *file = fopen(name, "re");
    size_t length = file ? fread(text, 1, sizeof text, file) : 0;
    if (length == 0 || length == sizeof text)
        return NULL;
    fclose(file);
    return fmemopen(text, length, "r");
}

/* ---- answers ---- */

__attribute__((format(printf, 1, 2))) static void more(const char *format, ...) {
    va_list list;
    va_start(list, format);
    putchar(',');
    vprintf(format, list);
}

/* The result of a call that returns a negative number on failure; errno stays. */
static void answer(long result) {
    int error = errno;
    more("\"ok\":%s", result < 0 ? "false" : "true");
    if (result < 0)
        more("\"err\":\"%s\"", strerrorname_np(error));
    errno = error;
}

/* ---- checksums ---- */

static uint32_t crc32_of(uint32_t crc, const uint8_t *data, size_t length) {
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t n = 0; n < 256; n++) {
            uint32_t value = n;
            for (int bit = 0; bit < 8; bit++)
                value = value & 1 ? 0xedb88320 ^ (value >> 1) : value >> 1;
            table[n] = value;
        }
    crc = ~crc;
    for (size_t at = 0; at < length; at++)
        crc = table[(crc ^ data[at]) & 255] ^ (crc >> 8);
    return ~crc;
}

static int all_the_same(const uint8_t *data, size_t length) { return memcmp(data, data + 1, length - 1) == 0; }

#endif
