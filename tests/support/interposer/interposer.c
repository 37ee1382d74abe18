/* Loaded into the gateway before the C library: notes every call that changes a file below a directory, and
 * ends the process by SIGKILL in front of the nth of them. Refuses writes while a file says so.
 *
 *   INTERPOSED_DIR    the directory
 *   INTERPOSED_LOG    gets one line per call: its name and the file
 *   INTERPOSED_KILL   n; never if it is missing
 *   INTERPOSED_REFUSE a file; while it is there, writes fail with the error whose number it has first, if the
 *                     path contains the word that it has second
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long calls;

static ssize_t (*real_write)(int, const void *, size_t);

static void note(const char *name, const char *path) {
    const char *dir = getenv("INTERPOSED_DIR"), *log = getenv("INTERPOSED_LOG"), *kill_at = getenv("INTERPOSED_KILL");
    if (!dir || strncmp(path, dir, strlen(dir)) != 0) return;
    pthread_mutex_lock(&lock);
    calls++;
    if (kill_at && calls >= atol(kill_at)) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (log) {
        char line[4608];
        int length = snprintf(line, sizeof line, "%s %s\n", name, path);
        int file = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (!real_write) real_write = dlsym(RTLD_NEXT, "write");
        if (file < 0 || real_write(file, line, length) != length) abort();
        close(file);
    }
    pthread_mutex_unlock(&lock);
}

static void note_fd(const char *name, int fd) {
    char link[64], path[4097];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    note(name, path);
}

/* Whether a write to the file is refused; sets errno. */
static int is_refused(int fd) {
    char link[64], path[4097], word[64];
    const char *refuse = getenv("INTERPOSED_REFUSE"), *dir = getenv("INTERPOSED_DIR");
    FILE *file = refuse && dir ? fopen(refuse, "r") : NULL;
    int number, known;
    if (!file) return 0;
    known = fscanf(file, "%d %63s", &number, word) == 2;
    fclose(file);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (!known || length < 0) return 0;
    path[length] = 0;
    if (strncmp(path, dir, strlen(dir)) != 0 || !strstr(path, word)) return 0;
    errno = number;
    return 1;
}

#define OF_WRITE(name, parameters, arguments)      \
    ssize_t name parameters {                      \
        static ssize_t(*real) parameters;          \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        if (is_refused(fd)) return -1;             \
        note_fd(#name, fd);                        \
        return real arguments;                     \
    }

#define OF_FD(name, parameters, arguments)         \
    int name parameters {                          \
        static int(*real) parameters;              \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        note_fd(#name, fd);                        \
        return real arguments;                     \
    }

#define OF_PATH(name, parameters, arguments)       \
    int name parameters {                          \
        static int(*real) parameters;              \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        note(#name, path);                         \
        return real arguments;                     \
    }

OF_WRITE(write, (int fd, const void *bytes, size_t count), (fd, bytes, count))
OF_WRITE(pwrite, (int fd, const void *bytes, size_t count, off_t at), (fd, bytes, count, at))
OF_WRITE(pwrite64, (int fd, const void *bytes, size_t count, off64_t at), (fd, bytes, count, at))
OF_FD(fsync, (int fd), (fd))
OF_FD(fdatasync, (int fd), (fd))
OF_FD(ftruncate, (int fd, off_t length), (fd, length))
OF_FD(ftruncate64, (int fd, off64_t length), (fd, length))
OF_PATH(rename, (const char *path, const char *to), (path, to))
OF_PATH(unlink, (const char *path), (path))
OF_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
