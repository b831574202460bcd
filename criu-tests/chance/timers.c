// SPDX-License-Identifier: GPL-2.0-or-later
/* POSIX timers, interval timers, timerfds. */
#include "chance.h"

#include <fcntl.h>
#include <sys/time.h>
#include <sys/timerfd.h>

#define TIMERS 64
#define TIMERFDS 16
/* What expires within this time has expired before anything is looked at. */
#define SOON (5 * SECOND)
#define TICK (10 * MS)
#ifndef CLOCK_REALTIME_ALARM
#define CLOCK_REALTIME_ALARM 8
#endif
#ifndef CLOCK_BOOTTIME_ALARM
#define CLOCK_BOOTTIME_ALARM 9
#endif
#ifndef CLOCK_TAI
#define CLOCK_TAI 11
#endif

struct timer {
	int made, set, deleted, seen, id, sig, value, notify, told;
	/* To be armed when it is waited for. */
	int awaited;
	clockid_t clock;
	/* Whose processor time it counts: a thread, or NULL. */
	struct thread *counted;
	int on_cpu;
	int64_t first, interval;
	/* Expiries in handlers, in all and at two times. */
	long long ticks, at_ready, at_go;
};
static struct timer timers[TIMERS];

static struct itimer {
	const char *name;
	int which, sig, set;
	int64_t first, interval;
	long long ticks, at_ready, at_go;
} itimers[] = {
	{ .name = "real", .which = ITIMER_REAL, .sig = SIGALRM },
	{ .name = "virtual", .which = ITIMER_VIRTUAL, .sig = SIGVTALRM },
	{ .name = "prof", .which = ITIMER_PROF, .sig = SIGPROF },
};
#define ITIMERS (int)(sizeof(itimers) / sizeof(*itimers))

static struct {
	int fd, on_realtime;
	int64_t first, interval;
} timerfds[TIMERFDS];

void burn(int64_t ns)
{
	int64_t end = now(CLOCK_THREAD_CPUTIME_ID) + ns;

	while (now(CLOCK_THREAD_CPUTIME_ID) < end)
		for (volatile int i = 0; i < 20000; i++)
			;
}

static void burn_in(struct thread *t, void *ns)
{
	(void)t;
	burn(*(int64_t *)ns);
}

static int64_t ns_of(struct timespec t)
{
	return t.tv_sec * SECOND + t.tv_nsec;
}

static struct itimerspec spec_of(int64_t first, int64_t interval)
{
	return (struct itimerspec){ .it_value = { (time_t)(first / SECOND), (long)(first % SECOND) },
				    .it_interval = { (time_t)(interval / SECOND), (long)(interval % SECOND) } };
}

/* Of a 32-bit program: its seconds are 32 bits. */
#define LONGEST (2000000000ll * SECOND)

/* ---- made ---------------------------------------------------------------------------------------------------- */

struct making {
	struct timer *timer;
	const struct line *line;
};

/* The kernel's id of the processor time of a thread: clock_getcpuclockid(3) knows only processes. */
static clockid_t cpu_clock_of(pid_t tid)
{
	return (clockid_t)((~(unsigned)tid << 3) | 6);
}

static clockid_t clock_of(const struct line *line, int word, struct timer *timer, struct thread *by)
{
	static const struct {
		const char *name;
		clockid_t clock;
	} names[] = { { "realtime", CLOCK_REALTIME },		  { "monotonic", CLOCK_MONOTONIC },
		      { "boottime", CLOCK_BOOTTIME },		  { "tai", CLOCK_TAI },
		      { "realtime-alarm", CLOCK_REALTIME_ALARM }, { "boottime-alarm", CLOCK_BOOTTIME_ALARM } };
	struct line of;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (is(line, word, names[i].name))
			return names[i].clock;
	timer->on_cpu = 1;
	if (is(line, word, "process-cpu"))
		return CLOCK_PROCESS_CPUTIME_ID;
	if (is(line, word, "thread-cpu")) {
		timer->counted = by;
		return CLOCK_THREAD_CPUTIME_ID;
	}
	if (strncmp(line->word[word], "cpu-of:", 7))
		bad_plan(line, "there is no clock '%.20s'", line->word[word]);
	of = *line;
	of.word[word] = line->word[word] + 7;
	timer->counted = thread_of(&of, word);
	return cpu_clock_of(timer->counted->tid);
}

static void make_in(struct thread *t, void *arg)
{
	struct making *making = arg;
	struct timer *timer = making->timer;
	struct sigevent event = { .sigev_notify = timer->notify, .sigev_signo = timer->sig };
	/* The kernel's own ids, not libc's pointers. */
	int id = 0;

	(void)t;
	event.sigev_value.sival_int = timer->value;
	if (timer->notify == SIGEV_THREAD_ID)
		event._sigev_un._tid = timer->told < 0 ? 0 : threads[timer->told].tid;
	if (syscall(SYS_timer_create, timer->clock, &event, &id))
		bad_plan(making->line, "timer_create: %m");
	timer->id = id;
	timer->made = 1;
}

/* The next line that names the timer is `timer-wait`. */
static int is_awaited(const struct line *line)
{
	int64_t id = number(line, 1, 0, TIMERS - 1);

	for (const struct line *next = next_line(line); next; next = next_line(next))
		if ((is(next, 0, "timer") || !strncmp(next->word[0], "timer-", 6)) && number(next, 1, 0, TIMERS - 1) == id)
			return is(next, 0, "timer-wait");
	return 0;
}

static void set_time(const struct line *line, const struct timer *timer, int64_t first, int64_t interval)
{
	struct itimerspec spec = spec_of(first, interval);

	if (syscall(SYS_timer_settime, timer->id, 0, &spec, NULL))
		bad_plan(line, "timer_settime: %m");
}

/*
 * What expires soon does so where the plan waits for it: on a busy machine the lines in between would be done before it
 * expires in one run, and after that in another. Until then it is as if it had been set and had not expired.
 */
static void arm(const struct line *line, struct timer *timer, int first_word)
{
	timer->first = number(line, first_word, 0, LONGEST);
	timer->interval = number(line, first_word + 1, 0, LONGEST);
	timer->set = timer->first != 0;
	timer->awaited = timer->set && is_awaited(line);
	set_time(line, timer, timer->awaited ? LONGEST : timer->first, timer->interval);
}

static void notify_of(const struct line *line, struct timer *timer)
{
	struct line of = *line;

	timer->told = -1;
	if (is(line, 4, "signal")) {
		timer->notify = SIGEV_SIGNAL;
	} else if (is(line, 4, "none")) {
		timer->notify = SIGEV_NONE;
	} else if (!strncmp(line->word[4], "thread:", 7)) {
		timer->notify = SIGEV_THREAD_ID;
		of.word[4] = line->word[4] + 7;
		timer->told = thread_of(&of, 4)->number;
	} else {
		bad_plan(line, "'%.20s' is none of signal, thread:N, none", line->word[4]);
	}
}

void do_timer(struct line *line)
{
	struct timer *timer = &timers[number(line, 1, 0, TIMERS - 1)];
	struct thread *by = thread_of(line, 2);
	struct making making = { timer, line };

	if (timer->made && !timer->deleted)
		bad_plan(line, "there is such a timer already");
	memset(timer, 0, sizeof(*timer));
	timer->clock = clock_of(line, 3, timer, by);
	notify_of(line, timer);
	timer->sig = signal_of(line, 5);
	timer->value = (int)number(line, 6, INT_MIN, UINT_MAX);
	run_in(by, make_in, &making);
	arm(line, timer, 7);
}

static struct timer *timer_of(const struct line *line)
{
	struct timer *timer = &timers[number(line, 1, 0, TIMERS - 1)];

	if (!timer->made || timer->deleted)
		bad_plan(line, "there is no such timer at this place");
	return timer;
}

void do_timer_set(struct line *line)
{
	arm(line, timer_of(line), 2);
}

void do_timer_delete(struct line *line)
{
	struct timer *timer = timer_of(line);

	if (syscall(SYS_timer_delete, timer->id))
		bad_plan(line, "timer_delete: %m");
	timer->deleted = 1;
}

static int get_timer(const struct timer *timer, struct itimerspec *spec)
{
	return (int)syscall(SYS_timer_gettime, timer->id, spec);
}

/*
 * A timer that is due and has not expired yet has 1 ns left; one that has, and was to expire once, has nothing left
 * (common_timer_get). `due`: by its clock, which the caller knows.
 */
static int has_expired(const struct timer *timer, int due)
{
	struct itimerspec spec;

	if (get_timer(timer, &spec))
		return 1;
	if (!timer->interval)
		return !ns_of(spec.it_value);
	return due && ns_of(spec.it_value) != 1;
}

/* The clock that can be asked: those that wake the machine can only be set where there is such a device. */
static clockid_t readable(clockid_t clock)
{
	if (clock == CLOCK_REALTIME_ALARM)
		return CLOCK_REALTIME;
	return clock == CLOCK_BOOTTIME_ALARM ? CLOCK_BOOTTIME : clock;
}

/* What spend() spends of a CPU clock. */
#define SPENT (4 * MS)

static void spend(const struct timer *timer)
{
	int64_t ns = SPENT;

	if (!timer->on_cpu)
		sleep_ns(MS);
	else if (timer->counted)
		run_in(timer->counted, burn_in, &ns);
	else
		burn(ns);
}

void do_timer_wait(struct line *line)
{
	struct timer *timer = timer_of(line);
	int64_t end, due;

	if (!timer->set)
		bad_plan(line, "it is not armed");
	if (timer->first > 2 * SECOND)
		bad_plan(line, "its first expiry is more than two seconds away");
	if (timer->awaited)
		set_time(line, timer, timer->first, timer->interval);
	timer->awaited = 0;
	if (timer->on_cpu) {
		int64_t ns = timer->first + TICK;

		if (timer->counted)
			run_in(timer->counted, burn_in, &ns);
		else
			burn(ns);
	}
	/* Set before this, so due not later. */
	due = now(readable(CLOCK_MONOTONIC)) + (timer->on_cpu ? 0 : timer->first);
	end = now(CLOCK_MONOTONIC) + PATIENCE_NS;
	while (!has_expired(timer, now(CLOCK_MONOTONIC) >= due)) {
		if (now(CLOCK_MONOTONIC) > end)
			failed("line %d: the timer does not expire", line->number);
		spend(timer);
	}
}

/* ---- interval timers ----------------------------------------------------------------------------------------- */

static struct itimer *itimer_of(const struct line *line)
{
	for (int i = 0; i < ITIMERS; i++)
		if (is(line, 1, itimers[i].name))
			return &itimers[i];
	bad_plan(line, "'%.20s' is none of real, virtual, prof", line->word[1]);
}

void do_itimer(struct line *line)
{
	struct itimer *timer = itimer_of(line);
	struct itimerval value;

	timer->first = number(line, 2, 0, LONGEST) / 1000 * 1000;
	timer->interval = number(line, 3, 0, LONGEST) / 1000 * 1000;
	timer->set = timer->first != 0;
	value.it_value.tv_sec = (time_t)(timer->first / SECOND);
	value.it_value.tv_usec = (suseconds_t)(timer->first % SECOND / 1000);
	value.it_interval.tv_sec = (time_t)(timer->interval / SECOND);
	value.it_interval.tv_usec = (suseconds_t)(timer->interval % SECOND / 1000);
	if (setitimer((__itimer_which_t)timer->which, &value, NULL))
		bad_plan(line, "setitimer: %m");
}

void do_itimer_wait(struct line *line)
{
	struct itimer *timer = itimer_of(line);
	int64_t end = now(CLOCK_MONOTONIC) + PATIENCE_NS;

	if (!timer->set || timer->first > 2 * SECOND)
		bad_plan(line, "it is not armed, or its first expiry is more than two seconds away");
	while (!(status_set(getpid(), observer.tid, "ShdPnd") & BIT(timer->sig))) {
		if (now(CLOCK_MONOTONIC) > end)
			failed("line %d: the timer does not expire", line->number);
		if (timer->which == ITIMER_REAL)
			sleep_ns(MS);
		else
			burn(4 * MS);
	}
}

static int64_t itimer_left(const struct itimer *timer, int64_t *interval)
{
	struct itimerval value;

	if (getitimer((__itimer_which_t)timer->which, &value))
		failed("getitimer: %m");
	*interval = value.it_interval.tv_sec * SECOND + value.it_interval.tv_usec * 1000ll;
	return value.it_value.tv_sec * SECOND + value.it_value.tv_usec * 1000ll;
}

/* ---- timerfds ------------------------------------------------------------------------------------------------ */

void do_timerfd(struct line *line)
{
	int at = (int)number(line, 1, 0, TIMERFDS - 1);
	struct itimerspec spec;
	struct timer clock = { 0 };

	if (timerfds[at].fd)
		bad_plan(line, "there is such a timerfd already");
	timerfds[at].first = number(line, 3, 0, LONGEST);
	timerfds[at].interval = number(line, 4, 0, LONGEST);
	if (!strncmp(line->word[2], "cpu-of:", 7))
		bad_plan(line, "no timerfd counts processor time");
	timerfds[at].fd = timerfd_create(clock_of(line, 2, &clock, &threads[0]), TFD_NONBLOCK | TFD_CLOEXEC);
	spec = spec_of(timerfds[at].first, timerfds[at].interval);
	if (timerfds[at].fd < 0 || timerfd_settime(timerfds[at].fd, 0, &spec, NULL))
		bad_plan(line, "timerfd: %m");
}

/* ---- in handlers --------------------------------------------------------------------------------------------- */

static struct timer *whose(const siginfo_t *info)
{
	if (info->si_code == SI_TIMER)
		for (int i = 0; i < TIMERS; i++)
			if (timers[i].made && timers[i].id == info->si_timerid && timers[i].value == info->si_value.sival_int &&
			    timers[i].sig == info->si_signo)
				return &timers[i];
	return NULL;
}

int is_timer(const siginfo_t *info)
{
	return whose(info) != NULL;
}

int is_timer_again(const siginfo_t *info)
{
	struct timer *timer = whose(info);

	return timer && timer->interval && timer->seen++;
}

int timer_ticked(int sig, const siginfo_t *info)
{
	struct timer *timer = info ? whose(info) : NULL;

	if (timer && timer->interval) {
		__atomic_add_fetch(&timer->ticks, 1 + info->si_overrun, __ATOMIC_SEQ_CST);
		return 1;
	}
	for (int i = 0; i < ITIMERS; i++)
		if (itimers[i].set && itimers[i].interval && itimers[i].sig == sig && (!info || info->si_code == SI_KERNEL)) {
			__atomic_add_fetch(&itimers[i].ticks, 1, __ATOMIC_SEQ_CST);
			return 1;
		}
	return 0;
}

uint64_t timer_signals(int thread)
{
	uint64_t set = 0;

	for (int i = 0; i < TIMERS; i++)
		if (timers[i].made && !timers[i].deleted && timers[i].set &&
		    ((timers[i].notify == SIGEV_SIGNAL && thread < 0) ||
		     (timers[i].notify == SIGEV_THREAD_ID && timers[i].told == thread)))
			set |= BIT(timers[i].sig);
	for (int i = 0; i < ITIMERS; i++)
		if (itimers[i].set && thread < 0)
			set |= BIT(itimers[i].sig);
	return set;
}

/* ---- the report ---------------------------------------------------------------------------------------------- */

static void note(int go)
{
	for (int i = 0; i < TIMERS; i++)
		*(go ? &timers[i].at_go : &timers[i].at_ready) = timers[i].ticks;
	for (int i = 0; i < ITIMERS; i++)
		*(go ? &itimers[i].at_go : &itimers[i].at_ready) = itimers[i].ticks;
}

void timers_at_ready(void)
{
	note(0);
}

void timers_at_go(void)
{
	note(1);
}

/* By what is left by its own account: after a restore that counts from another time. */
static void settle_one(int64_t first, int64_t left)
{
	if (first && first <= SOON && left > 0 && left <= SOON + SECOND)
		sleep_ns(left + 5 * MS);
}

void timers_settle(void)
{
	struct itimerspec spec;
	int64_t interval;

	for (int i = 0; i < TIMERS; i++)
		if (timers[i].made && !timers[i].deleted && timers[i].set && !timers[i].on_cpu && !get_timer(&timers[i], &spec))
			settle_one(timers[i].first, ns_of(spec.it_value));
	if (itimers[0].set)
		settle_one(itimers[0].first, itimer_left(&itimers[0], &interval));
	for (int i = 0; i < TIMERFDS; i++)
		if (timerfds[i].fd && !timerfd_gettime(timerfds[i].fd, &spec))
			settle_one(timerfds[i].first, ns_of(spec.it_value));
}

static void say_timerfd(int i)
{
	struct itimerspec spec;
	uint64_t ticks = 0;

	if (timerfd_gettime(timerfds[i].fd, &spec)) {
		say("timerfd %d gone %d", i, errno);
		return;
	}
	if (read(timerfds[i].fd, &ticks, sizeof(ticks)) < 0 && errno != EAGAIN)
		say("timerfd %d unreadable %d", i, errno);
	say("timerfd %d %lld %s ~left=%lld ~ticks=%llu", i, (long long)ns_of(spec.it_interval),
	    ns_of(spec.it_value) ? "armed" : "disarmed", (long long)ns_of(spec.it_value), (unsigned long long)ticks);
}

void timers_report(void)
{
	struct itimerspec spec;
	int64_t left, interval;

	for (int i = 0; i < TIMERS; i++) {
		if (!timers[i].made || timers[i].deleted)
			continue;
		if (get_timer(&timers[i], &spec))
			say("timer %d gone %d", i, errno);
		else
			say("timer %d %s %lld ~left=%lld ~overrun=%ld", i, ns_of(spec.it_value) ? "armed" : "disarmed",
			    (long long)ns_of(spec.it_interval), (long long)ns_of(spec.it_value),
			    syscall(SYS_timer_getoverrun, timers[i].id));
	}
	for (int i = 0; i < ITIMERS; i++) {
		left = itimer_left(&itimers[i], &interval);
		if (left || interval || itimers[i].set)
			say("itimer %s %lld %s ~left=%lld", itimers[i].name, (long long)interval, left ? "armed" : "disarmed",
			    (long long)left);
	}
	for (int i = 0; i < TIMERFDS; i++)
		if (timerfds[i].fd)
			say_timerfd(i);
}

static void say_ticks(const char *name, long long ready, long long go, long long end)
{
	if (end)
		say("ticks %s ~ready=%lld ~go=%lld ~end=%lld", name, ready, go, end);
}

void ticks_report(void)
{
	char name[16];

	for (int i = 0; i < TIMERS; i++) {
		snprintf(name, sizeof(name), "%d", i);
		say_ticks(name, timers[i].at_ready, timers[i].at_go, timers[i].ticks);
	}
	for (int i = 0; i < ITIMERS; i++)
		say_ticks(itimers[i].name, itimers[i].at_ready, itimers[i].at_go, itimers[i].ticks);
}

/* ---- whether they go on -------------------------------------------------------------------------------------- */

struct alive {
	const struct timer *timer;
	int found;
};

static void look_for(struct thread *t, void *arg)
{
	struct alive *alive = arg;
	siginfo_t info;

	(void)t;
	while (!alive->found && take(BIT(alive->timer->sig), &info))
		alive->found = whose(&info) == alive->timer;
}

static int comes(const struct timer *timer, struct thread *in)
{
	struct alive alive = { timer, 0 };
	struct patience left;

	/* What has been pending until now says nothing. */
	run_in(in, look_for, &alive);
	alive.found = 0;
	/* The CPU clock of a thread that gets no processor stands still. */
	left = patience(timer->interval + 2 * SECOND, (int)((timer->interval + SECOND / 5) / SPENT));
	while (!alive.found && is_patient(&left)) {
		spend(timer);
		run_in(in, look_for, &alive);
	}
	return alive.found;
}

void alive_report(void)
{
	for (int i = 0; i < TIMERS; i++) {
		const struct timer *timer = &timers[i];
		struct thread *in = timer->told >= 0 ? &threads[timer->told] : first_thread();

		if (!timer->made || timer->deleted || !timer->set || !timer->interval || timer->notify == SIGEV_NONE ||
		    timer->first > SOON || timer->interval > (timer->on_cpu ? SECOND / 5 : SECOND))
			continue;
		if (in->ended || in->lost || (timer->counted && (timer->counted->ended || timer->counted->lost)))
			say("alive %d unknown", i);
		else
			say("alive %d %s", i, comes(timer, in) ? "yes" : "no");
	}
}
