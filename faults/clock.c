/* Shifts the wall clock of the process that loads it (LD_PRELOAD). The monotonic clock, which
 * sleeps and timeouts use, does not change. All processes of one service map the file with the
 * shift: FAKETIME_FOLDER/SUPERVISOR_PROCESS_NAME. It has the seconds as an 8-byte integer. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t no_shift;
static volatile int64_t *shift_s = &no_shift;

__attribute__((constructor)) static void map_shift(void) {
    const char *folder = getenv("FAKETIME_FOLDER"), *service = getenv("SUPERVISOR_PROCESS_NAME");
    char path[4096];
    if (!folder || !service) return;
    snprintf(path, sizeof path, "%s/%s", folder, service);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return; /* a service whose clock no fault shifts */
    void *mapped = mmap(NULL, sizeof *shift_s, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) shift_s = mapped;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *shift_s;
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}

/* The kernel compares the end of a wait with the real clock. The monotonic clock counts from the
 * boot of the machine. An end that is too large for it is on the shifted wall clock, as Java passes
 * it, and has to be shifted back. */
int pthread_cond_timedwait(pthread_cond_t *changed, pthread_mutex_t *mutex,
                           const struct timespec *until) {
    struct timespec real = *until;
    if (until->tv_sec < 1000000000)
        return pthread_cond_clockwait(changed, mutex, CLOCK_MONOTONIC, until);
    real.tv_sec -= *shift_s;
    return pthread_cond_clockwait(changed, mutex, CLOCK_REALTIME, &real);
}
