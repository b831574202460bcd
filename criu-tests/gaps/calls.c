// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Cases 17 to 20: system calls that a checkpoint interrupts.
 *
 * 17-CALL and 18-CALL: the leader is in the call when the checkpoint is made; the other thread then gives it what
 * it waits for, or (-timeout) its time runs out. -rem: a handler ends it after that, and what the kernel says is
 * left is looked at. -again: the call had been interrupted before, by a stop. 19-CALL: a signal with a handler arrives while the task is held;
 * the sender stays outside of the tree, and sends it when it sees the task in a tracing stop. 20: a child in a
 * call with a mask of its own.
 */
#include "gap.h"

#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>

/* A call with a timeout is entered EARLY seconds before the checkpoint and ends TIMEOUT seconds after it began. */
#define TIMEOUT (1.6 * gap_slower())
#define EARLY (0.8 * gap_slower())

static int pair[2], event, epoll, word;
static pid_t leader, child;
static double entered_at, went_on, returned_at;
static int returned;
static const char *call;
static long result;
static int err;

/* What a call writes as the time that is left, and behind it what it may not touch. */
#define UNTOUCHED 0x55555555
static uint32_t rest[6] = { UNTOUCHED, UNTOUCHED, UNTOUCHED, UNTOUCHED, UNTOUCHED, UNTOUCHED };

#ifndef SYS_clock_nanosleep_time64
/* Of 32-bit programs only. */
#define SYS_clock_nanosleep_time64 (-1)
#define SYS_futex_time64 (-1)
#endif

#ifdef SYS__newselect
/* Of a 32-bit program; what the number of select stands for there takes its arguments in a structure. */
#undef SYS_select
#define SYS_select SYS__newselect
#endif

#ifdef __aarch64__
/* There are these calls with a mask alone. What libc makes of the others is made here. */
#define SYS_epoll_wait SYS_epoll_pwait
#define SYS_poll SYS_ppoll
#define SYS_select SYS_pselect6
#define SYS_pause SYS_ppoll
#endif

static struct timespec timeout_of(double s)
{
	return (struct timespec){ (time_t)s, (long)((s - (double)(time_t)s) * 1e9) };
}

static long syscall_of(void)
{
	static const struct {
		const char *name;
		long nr;
	} table[] = {
		{ "sigtimedwait", SYS_rt_sigtimedwait }, { "epoll_wait", SYS_epoll_wait },
		{ "epoll_pwait", SYS_epoll_pwait },	 { "recv", SYS_recvfrom },
		{ "clock_nanosleep_time64", SYS_clock_nanosleep_time64 },
		{ "futex_time64", SYS_futex_time64 },
		{ "poll", SYS_poll },			 { "nanosleep", SYS_nanosleep },
		{ "clock_nanosleep", SYS_clock_nanosleep }, { "futex", SYS_futex },
		{ "pause", SYS_pause },			 { "read", SYS_read },
		{ "select", SYS_select },		 { "wait", SYS_wait4 },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
		if (!strncmp(call, table[i].name, strlen(table[i].name)))
			return table[i].nr;
	gap_die("no such call");
}

static int starts(const char *with)
{
	return !strncmp(call, with, strlen(with));
}

/* The call itself. `limited`: with a timeout. */
static void enter(int limited)
{
	struct timespec t = timeout_of(TIMEOUT);
	struct timeval tv = { t.tv_sec, t.tv_nsec / 1000 };
	int64_t t64[2] = { t.tv_sec, t.tv_nsec };
	void *rem = strstr(call, "-rem") ? rest : NULL;
	int ms = (int)(TIMEOUT * 1000);
	uint64_t waited = BIT(SIGRTMIN + 1), none = 0;
	struct epoll_event got;
	struct pollfd pfd = { .fd = event, .events = POLLIN };
	fd_set fds;
	char byte[8];

	FD_ZERO(&fds);
	FD_SET(event, &fds);
	entered_at = gap_now();
	if (starts("sigtimedwait"))
		result = syscall(SYS_rt_sigtimedwait, &waited, NULL, limited ? &t : NULL, 8);
	else if (starts("epoll_wait"))
		result = syscall(SYS_epoll_wait, epoll, &got, 1, limited ? ms : -1, NULL, 8);
	else if (starts("epoll_pwait"))
		result = syscall(SYS_epoll_pwait, epoll, &got, 1, limited ? ms : -1, &none, 8);
	else if (starts("recv")) {
		/* 17: a socket with a receive timeout is another class of call: without, it would be restarted. */
		struct timeval longer = { 30, 0 };

		if (*gap_sub() == '1' && gap_sub()[1] == '7')
			setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, limited ? &tv : &longer, sizeof(tv));
		result = syscall(SYS_recvfrom, pair[0], byte, 1, 0, NULL, NULL);
	} else if (starts("poll"))
		result = SYS_poll == SYS_ppoll ? syscall(SYS_ppoll, &pfd, 1, limited ? &t : NULL, NULL, 8) :
						 syscall(SYS_poll, &pfd, 1, limited ? ms : -1);
	else if (starts("nanosleep"))
		result = syscall(SYS_nanosleep, &t, rem);
	else if (starts("clock_nanosleep_time64"))
		result = syscall(SYS_clock_nanosleep_time64, CLOCK_MONOTONIC, 0, t64, rem);
	else if (starts("clock_nanosleep"))
		result = syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, rem);
	else if (starts("futex_time64"))
		result = syscall(SYS_futex_time64, &word, FUTEX_WAIT_PRIVATE, 0, limited ? t64 : NULL, NULL, 0);
	else if (starts("futex"))
		result = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, limited ? &t : NULL, NULL, 0);
	else if (starts("pause"))
		result = SYS_pause == SYS_ppoll ? syscall(SYS_ppoll, NULL, 0, NULL, NULL, 8) : syscall(SYS_pause);
	else if (starts("read"))
		result = syscall(SYS_read, pair[0], byte, 1);
	else if (starts("select"))
		result = SYS_select == SYS_pselect6 ?
				 syscall(SYS_pselect6, event + 1, &fds, NULL, NULL, limited ? &t : NULL, NULL) :
				 syscall(SYS_select, event + 1, &fds, NULL, NULL, limited ? &tv : NULL);
	else if (starts("wait"))
		result = syscall(SYS_wait4, child, NULL, 0, NULL);
	err = result < 0 ? errno : 0;
	returned_at = gap_now();
	__atomic_store_n(&returned, 1, __ATOMIC_SEQ_CST);
}

static void wake(void)
{
	uint64_t one = 1;

	if (starts("sigtimedwait"))
		kill(getpid(), SIGRTMIN + 1);
	else if (starts("recv") || starts("read"))
		(void)!write(pair[1], "x", 1);
	else if (starts("futex"))
		syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	else if (starts("wait"))
		kill(child, SIGKILL);
	else
		(void)!write(event, &one, sizeof(one));
}

static int wait_returned(double s)
{
	for (double end = gap_now() + s * gap_slower(); gap_now() < end;) {
		if (__atomic_load_n(&returned, __ATOMIC_SEQ_CST))
			return 1;
		gap_sleep(2);
	}
	return __atomic_load_n(&returned, __ATOMIC_SEQ_CST);
}

static void say_result(void)
{
	if (err)
		gap_say("%s: %s", call, strerrorname_np(err));
	else
		gap_say("%s: %s", call, result ? "what it waited for" : "0");
}

/* Every thread stops, the leader with the time running, and goes on by restart_syscall(2). */
static void stop_and_go_on(void)
{
	pid_t all = getpid(), stopper;

	stopper = fork();
	if (!stopper) {
		kill(all, SIGSTOP);
		gap_wait_state(all, 'T');
		kill(all, SIGCONT);
		_exit(0);
	}
	if (stopper < 0 || waitpid(stopper, NULL, 0) != stopper)
		gap_die("the stop: %m");
	gap_wait_inside(leader, SYS_restart_syscall);
}

/* The handler ends the call, which says what is left. */
static void end_by_handler(void)
{
	int wide = starts("clock_nanosleep_time64") || sizeof(time_t) == 8, words = wide ? 4 : 2;
	double left;

	syscall(SYS_tgkill, getpid(), leader, SIGUSR1);
	if (!wait_returned(5)) {
		gap_say("%s: no handler ends it", call);
		return;
	}
	say_result();
	left = rest[0] + rest[words / 2] / 1e9;
	if (wide && (rest[1] || rest[3]))
		left = -1;
	for (int i = words; i < 6; i++)
		if (rest[i] != UNTOUCHED)
			gap_say("memory behind it is overwritten");
	gap_say("left: %s", left > 0 && left < (TIMEOUT - EARLY) + 0.2 ? "the rest of its time" :
			    left > 0 && left < TIMEOUT		      ? "nearly its full time" :
									"nonsense");
}

/* Any signal is the leader's. */
static void *other(void *arg)
{
	int limited = *(int *)arg, early;

	gap_wait_inside(leader, syscall_of());
	if (strstr(call, "-again"))
		stop_and_go_on();
	if (limited) {
		gap_sleep((int)(EARLY * 1000));
		gap_lasts(entered_at + TIMEOUT - gap_now());
	}
	gap_ready(getpid());
	gap_wait_for("go");
	went_on = gap_now();
	/* What a checkpoint does to the call it does at once. */
	early = wait_returned(0.2);
	if (early) {
		say_result();
		gap_say("at once");
		gap_end();
	}
	if (!limited) {
		wake();
		if (!wait_returned(5)) {
			gap_say("%s: still inside after what it waits for has come", call);
			gap_end();
		}
		say_result();
	} else if (strstr(call, "-rem")) {
		end_by_handler();
	} else {
		if (!wait_returned(5)) {
			gap_say("%s: its time never runs out", call);
			gap_end();
		}
		say_result();
		/* Time that passes while it is held may count or not, but the call must not begin anew. */
		gap_say("%s", returned_at - went_on < (TIMEOUT - EARLY) * 1.5 ? "when its time was over" :
										 "after its full time again");
	}
	gap_end();
}

static void *observer(void *arg)
{
	int restarted = !!strstr(gap_sub(), "restart");

	(void)arg;
	gap_wait_inside(leader, syscall_of());
	gap_touch("inside");
	gap_wait_for("go");
	gap_wait_for("sent");
	wait_returned(0.4);
	if (!gap_counted())
		gap_say("no handler ran");
	else
		gap_say("handler ran%s", gap_counted() > 1 ? " twice" : "");
	if (returned) {
		say_result();
	} else {
		gap_say("%s: inside", call);
		if (restarted) {
			wake();
			wait_returned(1);
			if (returned)
				say_result();
			else
				gap_say("for ever");
		}
	}
	gap_end();
}

static void start(void *(*fn)(void *), void *arg)
{
	pthread_t handle;
	uint64_t old = gap_setmask(ALL);

	if (pthread_create(&handle, NULL, fn, arg))
		gap_die("pthread_create");
	gap_setmask(old);
}

static void set_up(void)
{
	struct epoll_event wanted = { .events = EPOLLIN };

	leader = gap_tid();
	event = eventfd(0, 0);
	epoll = epoll_create1(0);
	if (event < 0 || epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted) ||
	    socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		gap_die("file descriptors: %m");
}

static void case_19_root(void)
{
	set_up();
	if (starts("wait")) {
		child = fork();
		if (!child)
			for (;;)
				pause();
	}
	gap_count(SIGUSR1, strstr(gap_sub(), "restart") ? SA_RESTART : 0);
	start(observer, NULL);
	enter(starts("nanosleep") || strstr(call, "timeout"));
	for (;;)
		gap_sleep(1000);
}

/* The sender. */
static void case_19(void)
{
	pid_t root = gap_outside_of(case_19_root);

	gap_wait_for("inside");
	/* The task is held for milliseconds only before criu reads its queue. Without the right to it, it may be late. */
	setpriority(PRIO_PROCESS, 0, -20);
	if (starts("nanosleep"))
		gap_lasts(TIMEOUT);
	gap_ready(root);
	for (;;) {
		/* Held by criu; or never held, and the others have been told to go on. */
		if (gap_state(root) == 't' || gap_has("go")) {
			kill(root, SIGUSR1);
			break;
		}
	}
	gap_touch("sent");
	for (;;)
		pause();
}

struct shared {
	int returned, err;
	long result;
};

static void case_20(void)
{
	struct shared *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t one = 1, none = 0, pending;
	char names[1024], state;
	int status;

	call = "epoll_pwait";
	set_up();
	child = fork();
	if (!child) {
		struct epoll_event got;

		setpgid(0, 0);
		gap_setmask(BIT(SIGTSTP));
		s->result = syscall(SYS_epoll_pwait, epoll, &got, 1, -1, &none, 8);
		s->err = errno;
		__atomic_store_n(&s->returned, 1, __ATOMIC_SEQ_CST);
		for (;;)
			pause();
	}
	gap_wait_state(child, 'S');
	gap_sleep(20);
	kill(child, SIGTSTP);
	if (waitpid(child, &status, WUNTRACED) != child || !WIFSTOPPED(status))
		gap_die("the child did not stop");
	gap_checkpoint();
	gap_sleep(100);
	state = gap_state(child);
	gap_say("%s", state == 'T' ? "stopped" : state == 'S' ? "running" : "dead or in another state");
	pending = gap_status(child, 0, "ShdPnd") | gap_status(child, 0, "SigPnd");
	gap_say("pending: %s", gap_names(pending, names));
	gap_say("epoll_pwait has%s returned", s->returned ? "" : " not");
	kill(child, SIGCONT);
	for (int i = 0; i < 30 && !s->returned; i++)
		gap_sleep(10);
	if (!s->returned) {
		(void)!write(event, &one, sizeof(one));
		for (int i = 0; i < 100 && !s->returned; i++)
			gap_sleep(10);
	}
	gap_say("SIGCONT: %s", !s->returned    ? "it hangs" :
			       s->result < 0 ? strerrorname_np(s->err) :
					       "the event");
	gap_say("blocked: %s", gap_names(gap_status(child, 0, "SigBlk"), names));
	gap_end();
}

int main(int argc, char **argv)
{
	int limited;

	gap_begin(argc, argv);
	call = gap_sub();
	while (*call && *call != '-')
		call++;
	if (*call)
		call++;
	limited = !strncmp(gap_sub(), "18-", 3) || strstr(call, "timeout");
	if (!strncmp(gap_sub(), "19-", 3))
		case_19();
	if (!strncmp(gap_sub(), "20", 2))
		case_20();
	set_up();
	if (starts("sigtimedwait"))
		gap_setmask(BIT(SIGRTMIN + 1));
	if (strstr(call, "-rem"))
		gap_count(SIGUSR1, 0);
	start(other, &limited);
	enter(limited);
	for (;;)
		gap_sleep(1000);
}
