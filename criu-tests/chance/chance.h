/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What `chance` is made of: see README.md for the plan and the report.
 *
 * Three kinds of threads: the leader and the numbered ones, which do as they are told (threads.c); the observer, which
 * reads the plan, tells them, waits for GO and writes the report (chance.c). All system calls that have to do with
 * signals are raw ones: libc hides two signals, and knows other flags and masks than the kernel.
 */
#ifndef CHANCE_H
#define CHANCE_H

#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define BIT(sig) (1ull << ((sig)-1))
#define ALL (~0ull)
#define SIGNALS 64
#define THREADS 16
#define CHILDREN 16
#define WORDS 16
/* What takes milliseconds, on a busy machine. */
#define PATIENCE_NS 30000000000ll
/* How long after its time a call, a timer or a child is waited for before it is reported as missing. */
#define LATE_NS 10000000000ll
#define MS 1000000ll
#define SECOND 1000000000ll

/* ---- chance.c: the plan, and what is said -------------------------------------------------------------------- */

/* A line of the plan. */
struct line {
	int number, count;
	char *word[WORDS];
};

void bad_plan(const struct line *line, const char *why, ...) __attribute__((format(printf, 2, 3), noreturn));
void failed(const char *why, ...) __attribute__((format(printf, 1, 2), noreturn));
/* A line of the report. From one process at a time; report_flush() before another one writes. */
void say(const char *text, ...) __attribute__((format(printf, 1, 2)));
void report_flush(void);
/* In a child: what is said from now on begins with this. */
void report_as(const char *prefix);
/* Appends a line to OUT at once. */
void tell(const char *text);
/* Whether GO is there. */
int has_go(void);
/* OUT. */
const char *out_file(void);
/* The file of this name in the folder in which the program was started. */
void in_folder(char path[PATH_MAX], const char *name);

/* Words as numbers; what is none, or out of range, is a bad plan. */
int64_t number(const struct line *line, int word, int64_t least, int64_t most);
uint64_t hex(const struct line *line, int word);
int signal_of(const struct line *line, int word);
/* Of the plan, or NULL. */
const struct line *next_line(const struct line *line);
/* Whether a word has this text. */
int is(const struct line *line, int word, const char *text);
/* The text of `option=` among the words from `from` on, or NULL. */
const char *option(const struct line *line, int from, const char *name);
uint64_t hex_text(const struct line *line, const char *text);

/* What every process of the plan sees. */
struct common {
	int64_t begin, ready, ready_boot, go, go_boot, taken, counted;
	/* With `stopped`: the process was told to go on. */
	int went_on;
	struct {
		/* What the child has done, and what it is to do; futexes. */
		int stage, order;
	} child[CHILDREN];
};
extern struct common *common;

int64_t now(clockid_t clock);
void sleep_ns(int64_t ns);

/*
 * How long something is looked for: for this time, and this many times. A machine that stands still for seconds uses up
 * time only.
 */
struct patience {
	int64_t end;
	int looks;
};
struct patience patience(int64_t ns, int looks);
/* Whether to look once more. */
int is_patient(struct patience *patience);

/* ---- kernel.c: raw system calls, /proc ----------------------------------------------------------------------- */

/* Where the processes are listed by the pids that the program knows. */
extern const char *proc_root;

struct action {
	unsigned long handler, flags, restorer;
	uint64_t mask;
};
int get_action(int sig, struct action *action);
int set_action(int sig, const struct action *action);
uint64_t set_mask(uint64_t mask);
uint64_t get_mask(void);
pid_t gettid_raw(void);
int futex_wait(int *word, int value, int64_t ns);
void futex_wake(int *word);
/* The siginfo's number, or 0 if none of the set is pending. */
int take(uint64_t set, siginfo_t *info);
/* A field of /proc/PID/task/TID/status in hexadecimal, or in decimal. -1: there is none. */
int64_t status_number(pid_t pid, pid_t tid, const char *field);
uint64_t status_set(pid_t pid, pid_t tid, const char *field);
/* The letter of its state, 0 if it is gone. */
char state_of(pid_t pid, pid_t tid);
/* Whether this thread of the process sleeps in the system call `nr`. */
int sleeps_in(pid_t tid, long nr);
/* Waits for the state; fails after a while. */
void wait_state(pid_t pid, char state);

/* ---- threads.c ----------------------------------------------------------------------------------------------- */

struct wait;
struct thread {
	int number, exists;
	pid_t tid;
	uint64_t mask;
	const struct line *mask_line;
	/* Told by the observer: futexes, counted up. */
	int told, done;
	void (*work)(struct thread *thread, void *arg);
	void *arg;
	/* Inside handlers: the numbers, how many there are and how deep the thread is. */
	const struct line *inside[8];
	int insides, depth, armed, leave, handled;
	void *context[8];
	/* Its alternate stack. */
	unsigned char *stack;
	size_t stack_size;
	struct wait *wait;
	const struct line *vfork_line, *seccomp_line;
	pid_t vfork_child;
	/* It ended, or does not come back from its call. */
	int ended, lost;
};
extern struct thread threads[THREADS];
extern struct thread observer;
extern __thread struct thread *self;

/* The thread that a word names; it exists from then on. */
struct thread *thread_of(const struct line *line, int word);
/* The threads that a line names which is done later. */
void declare_threads(const struct line *line);
/* The next thread that exists and can be told something, or NULL. */
struct thread *next_thread(struct thread *after);
/* The first thread that can be told something. */
struct thread *first_thread(void);
void threads_start(void);
/* All of them block all signals. */
void threads_block(void);
/* Runs something in a thread and waits for it. */
void run_in(struct thread *thread, void (*work)(struct thread *, void *), void *arg);
/* Does what it is told, until it is told to leave the innermost handler. */
void serve(struct thread *thread);
/* The work is done, as far as run_in() is concerned, before the function returns. */
void work_done(struct thread *thread);
void thread_settle(struct thread *thread);
/* The handler's part: stays inside, if that is what the signal was sent for. */
int inside_handler(int sig, void *context);
/* Until no thread runs, or has to: what was due when the process went on has been delivered. */
void threads_quiet(void);
/* `timed`: of the threads whose call may be over at any time, when it is; else of all others. */
void threads_report(int timed);
void threads_leave_handlers(void);

void do_mask(struct line *line);
void do_thread(struct line *line);
void do_inside(struct line *line);
void do_altstack(struct line *line);
void do_burn(struct line *line);

/* ---- actions.c ----------------------------------------------------------------------------------------------- */

void do_act(struct line *line);
/* All are default. */
void actions_reset(void);
/* `act` from the word `from` on. */
void act_from(const struct line *line, int from);
void do_later(struct line *line);
void later_all(void);
void actions_report(void);
/* Handlers that write the log for everything, with all signals blocked. */
void handle_everything(void);
void log_report(void);
void log_reset(void);
/* Whether the signal, if delivered by this disposition, ends or stops the process. */
int is_fatal(int sig);
/* Refuses a plan whose process would not live until the report. */
void check_fatal(void);

/* ---- queues.c ------------------------------------------------------------------------------------------------ */

void do_queue(struct line *line);
void do_bit(struct line *line);
void do_limit(struct line *line);
/* Queues what the words from `from` on say, to the calling thread or process. */
void queue_from(const struct line *line, int from, int shared);
/* In hexadecimal; what depends on the clock in a form of its own. Buffer: INFO_TEXT bytes. */
#define INFO_TEXT 320
char *info_text(const siginfo_t *info, char *text);
void limit_report(void);
void refused_report(void);
void lists_report(void);
void take_report(void);

/* ---- timers.c ------------------------------------------------------------------------------------------------ */

void do_timer(struct line *line);
void do_timer_set(struct line *line);
void do_timer_wait(struct line *line);
void do_timer_delete(struct line *line);
void do_itimer(struct line *line);
void do_itimer_wait(struct line *line);
void do_timerfd(struct line *line);
/* Whether the siginfo is that of a timer of the plan. */
int is_timer(const siginfo_t *info);
/* Whether it is a further entry of a periodic timer of which one has been seen: it is armed again by being taken. */
int is_timer_again(const siginfo_t *info);
/* In the handler: counts the expiries of a timer, 0 if it is none. */
int timer_ticked(int sig, const siginfo_t *info);
/* The numbers that timers may send, to any thread: shared and by thread. */
uint64_t timer_signals(int thread);
void timers_at_ready(void);
void timers_at_go(void);
/* Until those that soon expire have expired. */
void timers_settle(void);
void timers_report(void);
void ticks_report(void);
void alive_report(void);
/* Spends processor time in the calling thread. */
void burn(int64_t ns);

/* ---- waits.c ------------------------------------------------------------------------------------------------- */

void do_wait(struct line *line);
/* What the calls of the plan need; by the observer, before threads settle. */
void waits_prepare(void);
int plan_needs_ipc(void);
/* The call itself; in the thread. */
void wait_enter(struct wait *wait);
long wait_syscall(const struct wait *wait);
uint64_t wait_mask(const struct thread *thread);
int has_timeout(const struct thread *thread);
/* Whether it came back before it was to. */
int wait_is_over(const struct wait *wait);
void wait_is_wrong(const struct wait *wait) __attribute__((noreturn));
/* Ends all calls and says how they ended. */
void waits_report(void);

/* ---- children.c ---------------------------------------------------------------------------------------------- */

void do_child(struct line *line);
void do_child_line(struct line *line);
void do_child_send(struct line *line);
/* Those that are named and have no line of their own. */
void children_complete(void);
void children_look(void);
void children_end(void);
void children_kill(void);
int is_child(pid_t pid);
/* A further process, which is killed at the end. */
pid_t helper(void (*run)(void));

/* ---- others.c ------------------------------------------------------------------------------------------------ */

void do_uid(struct line *line);
void do_userns(struct line *line);
void do_pidns(struct line *line);
void do_seccomp(struct line *line);
void do_vfork(struct line *line);
void do_refuse(struct line *line);
void do_stopped(struct line *line);
void do_due(struct line *line);
void do_leader_exits(struct line *line);
extern int leader_exits;
/* Namespaces and user; with one thread. */
void others_begin(void);
void seccomp_enter(struct thread *thread);
void vfork_enter(struct thread *thread);
void vforks_end(void);
void leader_ends(void);
void refuse_report(void);
/* The /proc of a pid namespace of its own is no longer needed. */
void proc_leave(void);
/* Says ready, by the helper if the process is to be stopped, and returns when GO is there. */
void ready_and_wait(void);
void ids_report(void);
uint64_t due_signals(int thread);

#endif
