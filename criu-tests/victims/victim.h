/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every victim is made of.
 *
 * A victim sets up one behaviour, calls victim_checkpoint(), and looks at itself afterwards. Whether it was
 * checkpointed in between it neither knows nor asks: run without a checkpoint it must print PASS too.
 *
 * Nothing here goes through libc's signal functions: they hide signals 32 and 33, put their own restorer into
 * every action and keep 1024-bit sets. k_*() are the bare syscalls on the kernel's own structures.
 */
#ifndef VICTIM_H
#define VICTIM_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The kernel's numbers: glibc's SIGRTMIN is 34, as it keeps two for itself. */
#define K_NSIG 64
#define K_SIGRTMIN 32
#define K_SA_RESTORER 0x04000000ul
#define K_SS_AUTODISARM (1u << 31)

#define SIGBIT(sig) (1ull << ((sig)-1))
#define ALL_SIGNALS (~0ull)

/* The kernel's struct sigaction. (The mask is 8 bytes in a 32-bit task as well.) */
struct k_sigaction {
	unsigned long handler;
	unsigned long flags;
	unsigned long restorer;
	uint64_t mask;
};

/* rt_sigaction(sig, set, old), of the bare kernel. Set-up cannot go on if it fails. */
void k_sigaction(int sig, const struct k_sigaction *set, struct k_sigaction *old);
/* rt_sigprocmask(SIG_SETMASK, &mask, &old): returns the old mask. */
uint64_t k_setmask(uint64_t mask);
/* The mask in force in the calling thread. */
uint64_t k_getmask(void);
/* rt_sigtimedwait(set, info, timeout 0): the signal's number, or 0 if none of the set is pending. */
int k_take(uint64_t set, siginfo_t *info);
/* rt_sigqueueinfo to the own process: goes to the shared queue. Only the leader may use si_code >= 0. */
void k_queue_shared(const siginfo_t *info);
/* rt_tgsigqueueinfo to the calling thread: goes to its private queue. */
void k_queue_private(const siginfo_t *info);
/* tgkill to a thread of the own process. */
void k_tgkill(pid_t tid, int sig);
pid_t k_gettid(void);
/* sleeps without leaving a trace in the signal state; EINTR is of no interest here. */
void k_sleep_ms(int ms);
/* CLOCK_MONOTONIC, in nanoseconds. */
long long k_now_ns(void);
/* A timer of CLOCK_MONOTONIC that sends the process `sig` with this value: its number. Not armed. */
int k_timer(int sig, int value);

/* What SA_RESTORER must point to, so that a handler with these flags can return. */
unsigned long victim_restorer(unsigned long flags);

/* siginfo of a queued value, and one whose union holds `len` distinct bytes that depend on `seed`. */
siginfo_t info_value(int sig, int value);
siginfo_t info_pattern(int sig, int code, unsigned char seed, size_t len);
/* As much of the union as the kernel keeps: struct kernel_siginfo has 48 bytes, 16 of them before the union. */
#define INFO_KEPT 32
#define INFO_WHOLE (sizeof(siginfo_t) - 16)

/*
 * The course of a victim. argv[1] is the run folder, argv[2] an argument of the scenario, if it has one.
 */
void victim_begin(int argc, char **argv);
const char *victim_arg(void);
/*
 * Records the whole signal state of this process (dispositions, and of every thread the masks, pending bits and
 * queues, entry by entry, in list order), says "ready", waits for "go", takes the state again and compares.
 * Then threads and children are released.
 */
void victim_checkpoint(void);
/*
 * Set where entries of different numbers may change places: a timer's own entry cannot be moved, so that others are queued
 * around it. No program can tell, because signals are taken by number.
 */
extern int victim_by_number;
/* Called once "ready" has been said, before waiting for "go". */
extern void (*victim_when_ready)(void);
/* Waits for threads and children, prints PASS if nothing failed. main() returns what it returns. */
int victim_end(void);

/* The name of a file in the run folder. The buffer is the caller's own, PATH_MAX long. */
void victim_path(char *path, const char *name);
void victim_write_file(const char *name, const char *text);

/* Threads. Returns when the new thread is where it wants to be seen: in victim_pause() or past victim_settle(). */
pid_t victim_thread(void (*fn)(int index), int index);
/* Called by a thread: it is set up. Sits until the checkpoint is over. Checks its own alternate stack. */
void victim_pause(void);
/* Called by a thread that is going to sit in syscall `nr` by itself while the checkpoint is made. */
void victim_settle(long nr);
int victim_released(void);
/* Takes what the calling thread had in its private queue (and the leader: the shared one), checks each entry. */
void victim_drain(void);

/* A child process that runs fn(index), in which it calls victim_checkpoint() and then checks itself. */
pid_t victim_child(void (*fn)(int index), int index);

/*
 * From here on the longest time for which the process stood still is noted: by a thread that reads the clock some thousand
 * times a second, before all others where it may (SCHED_FIFO), so that a busy machine adds little. In microseconds, in
 * the file `standstill`, when the victim ends.
 */
void victim_clock(void);

/* Pending bits as /proc shows them. */
uint64_t victim_shared_pending(void);
/* The state letter of a process, of /proc/PID/stat; 0 if there is none. */
char victim_state_of(pid_t pid);
/* Waits, a minute at most, until a process shows the state letter; 0 if it never does, or has ended. */
int victim_comes_to(pid_t pid, char state);
/*
 * Fails unless the process is stopped. Just let go by a tracer, it shows as running for a moment on its way back into
 * the stop; one that was really continued stays running.
 */
void victim_expect_stopped(pid_t pid, const char *what);

/* Failures. Each is one line of the file `out`; none of them ends the victim. */
void victim_fail(const char *what, const char *expected, const char *got);
void expect_u64(uint64_t expected, uint64_t got, const char *what, ...) __attribute__((format(printf, 3, 4)));
void expect_int(long expected, long got, const char *what, ...) __attribute__((format(printf, 3, 4)));
void expect_info(const siginfo_t *expected, const siginfo_t *got, const char *what, ...)
	__attribute__((format(printf, 3, 4)));
/* The set-up itself does not work: nothing that follows would mean anything. */
void victim_die(const char *what, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
