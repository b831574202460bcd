// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A program that does what a stop could show in, in threads of its own, and counts: expiries of timers, the duration of
 * sleeps, bytes through a pipe, calls of handlers, calls that must not end with EINTR, and what its children's parent is
 * told. It runs until it is told to end. Nothing that looks at it from outside may show.
 */
#include "victim.h"

#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>

#define TICK SIGRTMIN
#define NUDGE (SIGRTMIN + 1)
#define PERIOD_NS (10 * 1000 * 1000l)
#define NAP_NS (20 * 1000 * 1000l)
/* What no busy machine adds, and a sleep that begins anew at each look does. */
#define TOO_LONG_NS (10 * 1000 * 1000 * 1000ll)

static int over;
/* Calls that Linux ends with EINTR after any stop, where whoever has stopped the program was killed before he could put
 * that right: only with the argument `killed`. */
static unsigned long interrupted;
static unsigned long ticks, nudges, nudged, chlds;
static int pipe_fds[2], wake[2];
static char handler_stack[64 * 1024];

static int running(void)
{
	return !__atomic_load_n(&over, __ATOMIC_SEQ_CST);
}

static long long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void on_tick(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	__atomic_add_fetch(&ticks, 1 + (unsigned long)info->si_overrun, __ATOMIC_SEQ_CST);
}

static void on_nudge(int sig, siginfo_t *info, void *context)
{
	char *here = (char *)&here;

	(void)sig, (void)context;
	if (info->si_code != SI_TKILL || info->si_pid != getpid())
		victim_fail("siginfo of a handler", "SI_TKILL of our own", "another");
	if (here < handler_stack || here >= handler_stack + sizeof(handler_stack))
		victim_fail("stack of a handler", "the alternate one", "another");
	__atomic_add_fetch(&nudged, 1, __ATOMIC_SEQ_CST);
}

static void on_chld(int sig)
{
	(void)sig;
	__atomic_add_fetch(&chlds, 1, __ATOMIC_SEQ_CST);
}

static void handle(int sig, void (*fn)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = { .sa_sigaction = fn, .sa_flags = SA_SIGINFO | flags };

	if (sigaction(sig, &action, NULL))
		victim_die("sigaction: %m");
}

/* All signals but `sig` are blocked in the thread. */
static void only(int sig)
{
	sigset_t set;

	sigfillset(&set);
	if (sig)
		sigdelset(&set, sig);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
}

static void *sleeps(void *arg)
{
	(void)arg;
	only(0);
	while (running()) {
		struct timespec nap = { .tv_nsec = NAP_NS }, left = { 0 };
		long long begun = now_ns(), took;

		expect_int(0, clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, &left), "clock_nanosleep");
		took = now_ns() - begun;
		if (took < NAP_NS)
			expect_int(NAP_NS, (long)took, "a sleep's length in ns");
		/* Restarted with its whole time it would take as long again for each look at it. */
		if (took > NAP_NS + TOO_LONG_NS)
			expect_int(NAP_NS, (long)took, "a sleep's length in ns (far too long)");
	}
	return NULL;
}

static int may_be_interrupted(void)
{
	if (errno != EINTR || strcmp(victim_arg(), "killed"))
		return 0;
	interrupted++;
	return 1;
}

static void *waits(void *arg)
{
	int epoll = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN };
	struct pollfd fd = { .fd = wake[1], .events = POLLIN };
	char byte;

	(void)arg;
	only(0);
	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, wake[1], &event))
		victim_die("epoll: %m");
	for (unsigned long i = 0; running(); i++) {
		int n;

		do
			n = i % 2 ? epoll_wait(epoll, &event, 1, -1) : poll(&fd, 1, -1);
		while (n < 0 && i % 2 && may_be_interrupted());
		if (n != 1)
			victim_fail(i % 2 ? "epoll_wait" : "poll", "1", n < 0 ? strerror(errno) : "0");
		/* Two bytes, with SO_RCVTIMEO, which a stop would end with EINTR. */
		for (int bytes = 0; bytes < 2; bytes++) {
			while ((n = (int)recv(wake[1], &byte, 1, 0)) < 0 && may_be_interrupted())
				;
			if (n != 1)
				victim_fail("recv", "a byte", strerror(errno));
		}
	}
	return NULL;
}

static void *wakes(void *arg)
{
	(void)arg;
	only(0);
	while (running()) {
		k_sleep_ms(3);
		if (write(wake[0], "x", 1) != 1)
			victim_fail("write", "1", strerror(errno));
		k_sleep_ms(3);
		if (write(wake[0], "y", 1) != 1)
			victim_fail("write", "1", strerror(errno));
	}
	/* Whatever the other one waits in. */
	return write(wake[0], "zzzz", 4) == 4 ? NULL : NULL;
}

static void *reads(void *arg)
{
	unsigned char expected = 0, byte;

	(void)arg;
	only(0);
	for (;;) {
		ssize_t n = read(pipe_fds[0], &byte, 1);

		if (!n)
			return NULL;
		if (n < 0)
			victim_fail("read of a pipe", "a byte", strerror(errno));
		else
			expect_int(expected++, byte, "byte of the pipe");
	}
}

static void *writes(void *arg)
{
	unsigned char byte = 0;

	(void)arg;
	only(0);
	while (running()) {
		for (int i = 0; i < 50; i++, byte++)
			if (write(pipe_fds[1], &byte, 1) != 1)
				victim_fail("write into a pipe", "1", strerror(errno));
		k_sleep_ms(1);
	}
	close(pipe_fds[1]);
	return NULL;
}

/* Its handler runs on a stack of its own, now while it computes, now while it waits in pause(2). */
static void *handles(void *arg)
{
	stack_t stack = { .ss_sp = handler_stack, .ss_size = sizeof(handler_stack) };

	(void)arg;
	if (sigaltstack(&stack, NULL))
		victim_die("sigaltstack: %m");
	only(NUDGE);
	while (running()) {
		int n = pause();

		if (n != -1 || errno != EINTR)
			victim_fail("pause", "EINTR, after the handler", strerror(errno));
	}
	return NULL;
}

static void *ticking(void *arg)
{
	(void)arg;
	only(TICK);
	while (running()) {
		struct timespec nap = { .tv_sec = 1 };

		nanosleep(&nap, NULL);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	enum { THREADS = 7 };
	void *(*fns[THREADS])(void *) = { sleeps, waits, wakes, reads, writes, handles, ticking };
	struct itimerspec every = { { 0, PERIOD_NS }, { 0, PERIOD_NS } };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = TICK };
	struct timeval patience = { .tv_sec = 60 };
	struct sigaction chld = { .sa_handler = on_chld };
	pthread_t threads[THREADS];
	pid_t stopped, alive, own = getpid();
	unsigned long *child_runs, child_ran;
	unsigned long counted = 0, due = 0;
	char path[PATH_MAX], text[64];
	long long begun, took;
	timer_t timer;
	int status;

	victim_begin(argc, argv);
	only(0);
	handle(TICK, on_tick, SA_RESTART);
	handle(NUDGE, on_nudge, SA_ONSTACK);
	sigaction(SIGCHLD, &chld, NULL);
	if (pipe(pipe_fds) || socketpair(AF_UNIX, SOCK_STREAM, 0, wake) ||
	    setsockopt(wake[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)))
		victim_die("pipe, socketpair: %m");

	/* Two children: one that is stopped, and whose parent knows it, and one that runs. */
	child_runs = mmap(NULL, sizeof(*child_runs), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (child_runs == MAP_FAILED)
		victim_die("mmap: %m");
	stopped = fork();
	if (!stopped)
		for (;;)
			__atomic_add_fetch(child_runs, 1, __ATOMIC_SEQ_CST);
	alive = fork();
	if (!alive)
		for (;;)
			k_sleep_ms(5);
	kill(stopped, SIGSTOP);
	if (waitpid(stopped, &status, WUNTRACED) != stopped || !WIFSTOPPED(status))
		victim_die("the child does not stop");
	child_ran = __atomic_load_n(child_runs, __ATOMIC_SEQ_CST);
	snprintf(text, sizeof(text), "%d %d", stopped, alive);
	victim_write_file("children", text);

	victim_clock();
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, fns[i], NULL))
			victim_die("pthread_create: %m");
	begun = now_ns();
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &every, NULL))
		victim_die("timer: %m");
	only(SIGCHLD);
	__atomic_store_n(&chlds, 0, __ATOMIC_SEQ_CST);
	victim_write_file("ready", "");
	victim_path(path, "go");
	while (access(path, F_OK)) {
		/* One at a time: it has been handled before the next is sent. */
		unsigned long before = __atomic_load_n(&nudged, __ATOMIC_SEQ_CST);
		int patience_ms = 20000;

		if (pthread_kill(threads[5], NUDGE))
			victim_fail("pthread_kill", "0", "an error");
		nudges++;
		while (__atomic_load_n(&nudged, __ATOMIC_SEQ_CST) == before && patience_ms--)
			k_sleep_ms(1);
		expect_u64(before + 1, __atomic_load_n(&nudged, __ATOMIC_SEQ_CST), "calls of a handler");
		expect_int(0, waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED), "news of the children");
		expect_u64(child_ran, __atomic_load_n(child_runs, __ATOMIC_SEQ_CST), "work of the stopped child");
		expect_int(own, getpid(), "pid");
	}
	/* Whoever looks on has let go by now. */
	victim_expect_stopped(stopped, "state of the stopped child");
	/* What has expired is counted when the signal is handled, so the two are compared as soon after that as may be. */
	for (int i = 0; i < 200; i++) {
		counted = __atomic_load_n(&ticks, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&ticks, __ATOMIC_SEQ_CST) == counted)
			k_sleep_ms(1);
		counted = __atomic_load_n(&ticks, __ATOMIC_SEQ_CST);
		took = now_ns() - begun;
		due = (unsigned long)(took / PERIOD_NS);
		if (counted + 2 >= due && counted <= due + 1)
			break;
	}
	if (counted + 2 < due || counted > due + 1)
		expect_u64(due, counted, "expiries of a timer");
	timer_settime(timer, 0, &(struct itimerspec){ 0 }, NULL);
	__atomic_store_n(&over, 1, __ATOMIC_SEQ_CST);
	pthread_kill(threads[5], NUDGE);
	expect_u64(0, chlds, "SIGCHLDs, of which there is no cause");
	kill(stopped, SIGKILL);
	kill(alive, SIGKILL);
	waitpid(stopped, NULL, 0);
	waitpid(alive, NULL, 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	snprintf(text, sizeof(text), "%lu", interrupted);
	victim_write_file("interrupted", text);
	return victim_end();
}
