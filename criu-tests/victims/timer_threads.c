// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * POSIX timers that have to do with threads, or for which there is no room: CRIU makes all timers in the leader.
 *
 * limit: more timers than RLIMIT_SIGPENDING allows. cpu: timers of the CPU time of a thread. gone: a timer that tells a
 * thread which has ended, one that counts its time. told, nested: timers that tell the leader and another thread, nested in
 * a pid namespace of its own.
 */
#include "victim.h"

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>

#define SIG (SIGRTMIN + 1)
#define HOUR 3600000000000ll
#define MS 1000000ll

static int make(clockid_t clock, int notify, pid_t tid, int value)
{
	struct sigevent event;
	int id;

	memset(&event, 0, sizeof(event));
	event.sigev_notify = notify;
	event.sigev_signo = SIG;
	event.sigev_value.sival_int = value;
	event._sigev_un._tid = tid;
	if (syscall(SYS_timer_create, clock, &event, &id))
		victim_die("timer_create: %m");
	return id;
}

static struct timespec span(long long ns)
{
	return (struct timespec){ ns / 1000000000, ns % 1000000000 };
}

static void arm(int id, long long first, long long interval)
{
	struct itimerspec spec = { .it_value = span(first), .it_interval = span(interval) };

	if (syscall(SYS_timer_settime, id, 0, &spec, NULL))
		victim_die("timer_settime: %m");
}

static long long ns(struct timespec t)
{
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static long long left(int id)
{
	struct itimerspec spec;

	if (syscall(SYS_timer_gettime, id, &spec))
		return -1;
	return ns(spec.it_value);
}

static long long cpu_time(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return ns(t);
}

static void burn(long long time)
{
	for (long long end = cpu_time() + time; cpu_time() < end;)
		;
}

/* ---- cpu ------------------------------------------------------------------------------------------------------ */

enum { FAR, TICKING, PENDING, DISARMED, TIMERS };

static void make_all(int *id, pid_t tid)
{
	for (int i = 0; i < TIMERS; i++)
		id[i] = make(CLOCK_THREAD_CPUTIME_ID, i == FAR ? SIGEV_SIGNAL : SIGEV_THREAD_ID, tid, i);
	arm(id[PENDING], 1, MS);
	arm(id[FAR], HOUR, 0);
	burn(20 * MS);
	arm(id[TICKING], HOUR, HOUR);
}

/* How much of its own time a timer says has passed while the thread has used `time`. */
static void expect_counts(int id, long long time, const char *what)
{
	long long before = left(id), passed;

	burn(time);
	passed = before - left(id);
	if (passed < time)
		victim_fail(what, "the thread's own time", "less");
}

static void expect_own_time(const int *id)
{
	siginfo_t info;

	expect_int(SIG, k_take(SIGBIT(SIG), &info), "the pending signal");
	expect_int(id[PENDING], info.si_timerid, "its timer");
	arm(id[PENDING], 0, 0);
	/* Where it has expired once more in between, a kernel before 6.13 keeps the entry. */
	if (k_take(SIGBIT(SIG), &info))
		expect_int(id[PENDING], info.si_timerid, "the timer of a second signal");
	expect_counts(id[FAR], 20 * MS, "a timer that is far off");
	expect_counts(id[TICKING], 20 * MS, "a periodic timer");
	arm(id[DISARMED], HOUR, 0);
	expect_counts(id[DISARMED], 20 * MS, "a timer that was not armed");
	expect_int(0, k_take(SIGBIT(SIG), &info), "another signal");
}

static void of_its_time(int index)
{
	int id[TIMERS];

	(void)index;
	k_setmask(SIGBIT(SIG));
	make_all(id, k_gettid());
	victim_pause();
	expect_own_time(id);
}

/* ---- gone ----------------------------------------------------------------------------------------------------- */

static int of_gone;
static pthread_barrier_t both;

static void *ends(void *tid)
{
	*(pid_t *)tid = k_gettid();
	of_gone = make(CLOCK_THREAD_CPUTIME_ID, SIGEV_SIGNAL, 0, 9);
	arm(of_gone, HOUR, HOUR);
	pthread_barrier_wait(&both);
	pthread_barrier_wait(&both);
	return NULL;
}

static void waits(int index)
{
	(void)index;
	k_setmask(SIGBIT(SIG));
	victim_pause();
}

static void gone(void)
{
	pthread_t thread;
	siginfo_t info;
	pid_t tid;
	int id;

	pthread_barrier_init(&both, NULL, 2);
	if (pthread_create(&thread, NULL, ends, &tid))
		victim_die("pthread_create: %m");
	pthread_barrier_wait(&both);
	id = make(CLOCK_MONOTONIC, SIGEV_THREAD_ID, tid, 3);
	arm(id, MS, HOUR);
	pthread_barrier_wait(&both);
	pthread_join(thread, NULL);
	victim_thread(waits, 1);
	victim_checkpoint();
	if (left(id) <= HOUR / 2 || left(id) > HOUR)
		victim_fail("what the timer says is left", "nearly an hour", "something else");
	expect_int(0, left(of_gone), "what is left of the timer of a thread that has ended");
	expect_int(0, k_take(ALL_SIGNALS, &info), "a signal");
	/* A timer that is made now is another one. */
	expect_int(2, make(CLOCK_MONOTONIC, SIGEV_SIGNAL, 0, 4), "the id of another timer");
}

/* ---- told ----------------------------------------------------------------------------------------------------- */

static void expect_told(int id, int value)
{
	siginfo_t info;

	expect_int(0, k_take(SIGBIT(SIG), &info), "a signal before the timer has expired");
	arm(id, MS, 0);
	for (int i = 0; i < 5000 && !k_take(SIGBIT(SIG), &info); i++)
		k_sleep_ms(1);
	expect_int(SIG, info.si_signo, "the timer's signal");
	expect_int(id, info.si_timerid, "its timer");
	expect_int(value, info.si_int, "its value");
}

static void told(int index)
{
	int id;

	k_setmask(SIGBIT(SIG));
	id = make(CLOCK_MONOTONIC, SIGEV_THREAD_ID, k_gettid(), index);
	arm(id, HOUR, 0);
	victim_pause();
	expect_told(id, index);
}

/* ---- limit ---------------------------------------------------------------------------------------------------- */

static void limit(void)
{
	struct rlimit low = { 5, 5 }, now;
	int id[20];

	for (int i = 0; i < 20; i++)
		id[i] = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, 0, i);
	arm(id[19], HOUR, HOUR);
	if (setrlimit(RLIMIT_SIGPENDING, &low))
		victim_die("setrlimit: %m");
	victim_checkpoint();
	getrlimit(RLIMIT_SIGPENDING, &now);
	expect_int(5, (long)now.rlim_cur, "soft limit");
	expect_int(5, (long)now.rlim_max, "hard limit");
	for (int i = 0; i < 20; i++)
		if (left(id[i]) < 0)
			victim_fail("a timer", "there", "gone");
}

static int nested(int argc, char **argv)
{
	char text[16];
	pid_t pid;

	if (unshare(CLONE_NEWPID))
		victim_die("unshare: %m");
	pid = fork();
	if (pid < 0)
		victim_die("fork: %m");
	if (!pid) {
		victim_begin(argc, argv);
		return 0;
	}
	snprintf(text, sizeof(text), "%d", pid);
	victim_write_file("pid", text);
	_exit(0);
}

int main(int argc, char **argv)
{
	int id[TIMERS];

	victim_begin(argc, argv);
	k_setmask(SIGBIT(SIG));
	if (!strcmp(victim_arg(), "limit")) {
		limit();
	} else if (!strcmp(victim_arg(), "cpu")) {
		victim_thread(of_its_time, 0);
		victim_thread(of_its_time, 1);
		make_all(id, k_gettid());
		victim_checkpoint();
		expect_own_time(id);
	} else if (!strcmp(victim_arg(), "gone")) {
		gone();
	} else {
		if (!strcmp(victim_arg(), "nested")) {
			nested(argc, argv);
			k_setmask(SIGBIT(SIG));
		}
		victim_thread(told, 7);
		id[0] = make(CLOCK_MONOTONIC, SIGEV_THREAD_ID, k_gettid(), 8);
		arm(id[0], HOUR, 0);
		victim_checkpoint();
		expect_told(id[0], 8);
	}
	return victim_end();
}
