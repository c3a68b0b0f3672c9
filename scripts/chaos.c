/* Loaded with LD_PRELOAD by chaos.py: counts what a process does to files below a directory, and kills it at one of these operations.

   Modes: 0 kills before the operation, 1 after it, 2 in the middle of a write. Each operation is logged as one line to a descriptor. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char root[4096];
static size_t root_length;
static long number, deadly = -1;
static int mode, log_to = -1;

void chaos_arm(const char *directory, long at, int how, int log) {
    snprintf(root, sizeof root, "%s/", directory);
    root_length = strlen(root);
    number = 0;
    deadly = at;
    mode = how;
    log_to = log;
}

static int below(const char *path) { return root_length && strncmp(path, root, root_length) == 0; }

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Counts an operation; returns whether the process dies by it. */
static int count(const char *what, const char *path) {
    if (log_to >= 0) dprintf(log_to, "%s %s\n", what, path + root_length);
    int mine = number++ == deadly;
    if (mine && mode == 0) die();
    return mine;
}

static int count_descriptor(const char *what, int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = root_length ? readlink(link, path, sizeof path - 1) : -1;
    if (length < 0) return 0;
    path[length] = 0;
    strncat(path, "/", sizeof path - length - 1); /* the directory itself, whose fsync makes renames durable */
    int is_below = below(path);
    path[length] = 0;
    return is_below ? count(what, below(path) ? path : root) : 0;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define DONE(mine, result) do { if (mine) die(); return result; } while (0)

#define ON_PATH(name, declaration, path, call)                  \
    int name declaration {                                      \
        REAL(name);                                             \
        int mine = below(path) && count(#name, path);           \
        int result = real call;                                 \
        DONE(mine, result);                                     \
    }
ON_PATH(rename, (const char *from, const char *to), to, (from, to))
ON_PATH(link, (const char *from, const char *to), to, (from, to))
ON_PATH(unlink, (const char *path), path, (path))
ON_PATH(mkdir, (const char *path, mode_t rights), path, (path, rights))

#define ON_FILE(name, declaration, call)                        \
    int name declaration {                                      \
        REAL(name);                                             \
        int mine = count_descriptor(#name, file);               \
        int result = real call;                                 \
        DONE(mine, result);                                     \
    }
ON_FILE(fsync, (int file), (file))
ON_FILE(fdatasync, (int file), (file))
ON_FILE(ftruncate, (int file, off_t length), (file, length))
ON_FILE(ftruncate64, (int file, off64_t length), (file, length))

#define ON_WRITE(name, declaration, call)                       \
    ssize_t name declaration {                                  \
        REAL(name);                                             \
        int mine = count_descriptor(#name, file);               \
        if (mine && mode == 2) size /= 2;                       \
        ssize_t result = real call;                             \
        DONE(mine, result);                                     \
    }
ON_WRITE(write, (int file, const void *data, size_t size), (file, data, size))
ON_WRITE(pwrite, (int file, const void *data, size_t size, off_t at), (file, data, size, at))
ON_WRITE(pwrite64, (int file, const void *data, size_t size, off64_t at), (file, data, size, at))

#define ON_OPEN(name)                                           \
    int name(const char *path, int flags, ...) {                \
        REAL(name);                                             \
        va_list rest;                                           \
        va_start(rest, flags);                                  \
        mode_t rights = (flags & O_CREAT) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                           \
        int mine = (flags & O_CREAT) && below(path) && count(#name, path); \
        int result = real(path, flags, rights);                 \
        DONE(mine, result);                                     \
    }
ON_OPEN(open)
ON_OPEN(open64)
