/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the programs of `make gaps` are made of. Each sets up one case of the table of gaps, says "ready", waits
 * for "go", and then writes one line, "outcome: ...", that says what it finds: in words, without pids, addresses
 * or times, so that the lines of a run with a checkpoint and of one without can be compared.
 *
 * A program does not know whether it was checkpointed in between, and has no opinion on what is right: that is
 * what the same program says when it was not.
 */
#ifndef GAP_H
#define GAP_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BIT(sig) (1ull << ((sig)-1))
#define ALL (~0ull)

/* argv: the run folder, the sub-case, by how much longer times are to be than usual. */
void gap_begin(int argc, char **argv);
/* Whether the sub-case has this name. */
int gap_is(const char *name);
/* The sub-case's name, for what is in it. */
const char *gap_sub(void);

/*
 * Runs fn() in a process that leads a session of its own and is nobody's child but init's: the root of the tree
 * that is dumped, while the caller stays outside. Returns its pid.
 */
pid_t gap_outside_of(void (*fn)(void));
/* The case is set up: the tree of `root` may be dumped. */
void gap_ready(pid_t root);
int gap_has(const char *file);
void gap_touch(const char *file);
void gap_wait_for(const char *file);
/* By how much longer times are to be than usual: 1, or more where the machine turned out to be busy. */
double gap_slower(void);
/* Before gap_ready(): what the case is about lasts for so many seconds from now. A run that takes longer means nothing. */
void gap_lasts(double seconds);
/* Both for a program that is its tree's root: says "ready", waits for "go". */
void gap_checkpoint(void);

/* Adds to the outcome; parts are separated by "; ". From one process only. */
void gap_say(const char *text, ...) __attribute__((format(printf, 1, 2)));
/* Writes the outcome and ends the process. The runner ends the others. */
void gap_end(void) __attribute__((noreturn));
/* The case could not be set up: the run means nothing. */
void gap_die(const char *text, ...) __attribute__((format(printf, 1, 2), noreturn));

void gap_sleep(int ms);
double gap_now(void);
pid_t gap_tid(void);
uint64_t gap_setmask(uint64_t mask);
/* Takes a pending signal of the set without waiting: its number, or 0. */
int gap_take(uint64_t set, siginfo_t *info);
/* "SIGUSR1 SIGRTMIN+2", or "none". In a buffer of the caller's, 1024 bytes. */
char *gap_names(uint64_t set, char *buf);
const char *gap_name(int sig);
/* "SIGUSR1 SI_TKILL from itself value 7": what of a siginfo is the same in every run. Buffer: 128 bytes. */
char *gap_info(const siginfo_t *info, char *buf);
/* Takes all that is pending in the calling thread and says it, entry by entry, runs of one number in short. */
void gap_say_queue(uint64_t set);

/* Of a process, or a thread of it (tid 0: the leader), as /proc shows it. 0 if it is gone. */
char gap_state(pid_t pid);
uint64_t gap_status(pid_t pid, pid_t tid, const char *field);
void gap_wait_state(pid_t pid, char state);
/* Waits until the thread of this process sleeps inside syscall `nr`. */
void gap_wait_inside(pid_t tid, long nr);

/* A handler that counts, without SA_RESTART. */
void gap_count(int sig, int flags);
int gap_counted(void);

#endif
