// SPDX-License-Identifier: GPL-2.0-or-later
/* The numbered threads: told one thing at a time by the observer, and in between asleep in futex(2). */
#include "chance.h"

#include <pthread.h>
#include <sys/mman.h>

struct thread threads[THREADS];
struct thread observer = { .number = -1 };
__thread struct thread *self;

struct thread *thread_of(const struct line *line, int word)
{
	int n = (int)number(line, word, 0, THREADS - 1);
	struct thread *thread = &threads[n];

	if (observer.tid && !thread->tid)
		failed("line %d names thread %d, which nobody has made", line->number, n);
	thread->number = n;
	thread->exists = 1;
	return thread;
}

/* `N`, `thread:N`, `cpu-of:N`. What is none names no thread. */
static void declare(const struct line *line, int word)
{
	struct line of = *line;
	char *colon = strchr(line->word[word], ':');

	if (colon)
		of.word[word] = colon + 1;
	if (of.word[word][strspn(of.word[word], "0123456789")] == 0)
		thread_of(&of, word);
}

void declare_threads(const struct line *line)
{
	if (is(line, 0, "altstack") || is(line, 0, "burn") || is(line, 0, "queue") || is(line, 0, "bit"))
		declare(line, 1);
	if (is(line, 0, "timer"))
		for (int word = 2; word <= 4; word++)
			declare(line, word);
}

struct thread *next_thread(struct thread *after)
{
	for (struct thread *t = after ? after + 1 : threads; t < threads + THREADS; t++)
		if (t->exists && !t->ended && !t->lost)
			return t;
	return NULL;
}

struct thread *first_thread(void)
{
	struct thread *t = next_thread(NULL);

	if (!t)
		bad_plan(NULL, "no thread is left that could do something");
	return t;
}

void do_thread(struct line *line)
{
	thread_of(line, 1);
}

void do_mask(struct line *line)
{
	struct thread *t = thread_of(line, 1);

	t->mask = hex(line, 2);
	t->mask_line = line;
}

void do_inside(struct line *line)
{
	struct thread *t = thread_of(line, 1);

	if (t->insides == (int)(sizeof(t->inside) / sizeof(*t->inside)))
		bad_plan(line, "no thread is in more than %d handlers", t->insides);
	signal_of(line, 2);
	t->inside[t->insides++] = line;
}

/* ---- being told ---------------------------------------------------------------------------------------------- */

static int loaded(int *word)
{
	return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static void store(int *word, int value)
{
	__atomic_store_n(word, value, __ATOMIC_SEQ_CST);
	futex_wake(word);
}

void work_done(struct thread *t)
{
	store(&t->done, loaded(&t->told));
}

void serve(struct thread *t)
{
	while (!t->leave) {
		int seen = loaded(&t->done);

		if (loaded(&t->told) == seen) {
			/* Without a timeout: nothing in it depends on the time. */
			futex_wait(&t->told, seen, -1);
			continue;
		}
		t->work(t, t->arg);
		if (loaded(&t->done) == seen)
			work_done(t);
	}
	t->leave = 0;
}

void run_in(struct thread *t, void (*work)(struct thread *, void *), void *arg)
{
	int64_t end = now(CLOCK_MONOTONIC) + PATIENCE_NS;
	int told = loaded(&t->told) + 1;

	t->work = work;
	t->arg = arg;
	store(&t->told, told);
	for (int done; (done = loaded(&t->done)) != told;) {
		if (now(CLOCK_MONOTONIC) > end)
			failed("thread %d does not do what it is told", t->number);
		futex_wait(&t->done, done, 50 * MS);
	}
}

static void *begin(void *arg)
{
	struct thread *t = arg;

	self = t;
	__atomic_store_n(&t->tid, gettid_raw(), __ATOMIC_SEQ_CST);
	serve(t);
	return NULL;
}

void threads_start(void)
{
	pthread_attr_t attributes;
	pthread_t thread;

	threads[0].exists = 1;
	pthread_attr_init(&attributes);
	/* Handlers nest, and the kernel's frame is some kilobytes. */
	pthread_attr_setstacksize(&attributes, 512 << 10);
	for (struct thread *t = threads; t < threads + THREADS; t++) {
		if (!t->mask_line)
			t->mask = ALL;
		if (!t->exists || !t->number)
			continue;
		if (pthread_create(&thread, &attributes, begin, t))
			failed("pthread_create");
		/* Ids are given in the order of the numbers. */
		while (!__atomic_load_n(&t->tid, __ATOMIC_SEQ_CST))
			sleep_ns(MS / 10);
	}
}

/* ---- alternate stacks ---------------------------------------------------------------------------------------- */

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

static void altstack_in(struct thread *t, void *arg)
{
	const struct line *line = arg;
	stack_t stack = { .ss_flags = SS_DISABLE };

	if (!is(line, 2, "none")) {
		stack.ss_size = (size_t)number(line, 2, 1, 16 << 20);
		stack.ss_flags = line->count > 3 ? (int)SS_AUTODISARM : 0;
		stack.ss_sp = t->stack;
		if (line->count > 3 && !is(line, 3, "autodisarm"))
			bad_plan(line, "autodisarm, or nothing");
	}
	if (syscall(SYS_sigaltstack, &stack, NULL))
		bad_plan(line, "sigaltstack: %m");
}

void do_altstack(struct line *line)
{
	struct thread *t = thread_of(line, 1);

	if (!is(line, 2, "none")) {
		t->stack_size = (size_t)number(line, 2, 1, 16 << 20);
		t->stack = mmap(NULL, t->stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (t->stack == MAP_FAILED)
			failed("mmap: %m");
	}
	run_in(t, altstack_in, line);
}

static void burn_in(struct thread *t, void *arg)
{
	(void)t;
	burn(*(int64_t *)arg);
}

void do_burn(struct line *line)
{
	int64_t ns = number(line, 2, 0, 10 * SECOND);

	run_in(thread_of(line, 1), burn_in, &ns);
}

/* ---- how they stand at the checkpoint ------------------------------------------------------------------------ */

/* In the innermost handler, or outside of all: the thread is where it is to be. */
static void stand(struct thread *t)
{
	work_done(t);
	if (t->vfork_line)
		vfork_enter(t);
	else if (t->wait)
		wait_enter(t->wait);
}

static void go_deeper(struct thread *t)
{
	const struct line *line;
	int depth = t->depth;

	if (depth == t->insides) {
		stand(t);
		return;
	}
	line = t->inside[depth];
	__atomic_store_n(&t->armed, signal_of(line, 2), __ATOMIC_SEQ_CST);
	if (syscall(SYS_tgkill, getpid(), t->tid, signal_of(line, 2)))
		failed("tgkill: %m");
	/* The handler has run by now, to its end. */
	if (t->armed)
		bad_plan(line, "the signal is not delivered there: blocked, ignored, or without the program's handler");
}

int inside_handler(int sig, void *context)
{
	struct thread *t = self;

	if (!t || !sig || t->armed != sig)
		return 0;
	t->armed = 0;
	t->context[t->depth++] = context;
	go_deeper(t);
	serve(t);
	t->depth--;
	return 1;
}

static void settle_in(struct thread *t, void *nothing)
{
	(void)nothing;
	if (t->seccomp_line)
		seccomp_enter(t);
	set_mask(t->mask);
	go_deeper(t);
}

static long standing_call(const struct thread *t)
{
	if (t->wait)
		return wait_syscall(t->wait);
	return SYS_futex;
}

void thread_settle(struct thread *t)
{
	int64_t end = now(CLOCK_MONOTONIC) + PATIENCE_NS;

	run_in(t, settle_in, NULL);
	if (t->vfork_line) {
		wait_state(t->tid, 'D');
		return;
	}
	for (int seen = 0; seen < 2;) {
		if (t->wait && wait_is_over(t->wait))
			wait_is_wrong(t->wait);
		if (now(CLOCK_MONOTONIC) > end)
			failed("thread %d does not come to wait in system call %ld", t->number, standing_call(t));
		/* Twice: an interrupted call sleeps only when it has been entered again. */
		seen = sleeps_in(t->tid, standing_call(t)) ? seen + 1 : 0;
		sleep_ns(MS / 5);
	}
}

static int is_quiet(const struct thread *t)
{
	uint64_t open = ~status_set(getpid(), t->tid, "SigBlk");

	return state_of(getpid(), t->tid) != 'R' &&
	       !((status_set(getpid(), t->tid, "SigPnd") | status_set(getpid(), t->tid, "ShdPnd")) & open);
}

void threads_quiet(void)
{
	struct patience left = patience(SECOND, 200);

	for (int seen = 0; seen < 3 && is_patient(&left); seen++) {
		for (struct thread *t = next_thread(NULL); t; t = next_thread(t))
			if (!is_quiet(t))
				seen = -1;
		sleep_ns(2 * MS);
	}
}

/* ---- what they find ------------------------------------------------------------------------------------------ */

static void say_pending(const char *name, pid_t tid)
{
	uint64_t blocked = status_set(getpid(), tid, "SigBlk");

	/* What is not blocked is on its way to a handler. */
	say("status %s SigPnd=%016llx SigBlk=%016llx", name,
	    (unsigned long long)(status_set(getpid(), tid, "SigPnd") & blocked), (unsigned long long)blocked);
}

void threads_report(int timed)
{
	uint64_t blocked = ALL;
	char name[16];

	for (struct thread *t = threads; t < threads + THREADS; t++)
		if (t->exists) {
			snprintf(name, sizeof(name), "%d", t->number);
			if (has_timeout(t) == timed)
				say_pending(name, t->tid);
			if (!t->ended && !has_timeout(t))
				blocked &= status_set(getpid(), t->tid, "SigBlk");
		}
	if (timed)
		return;
	say_pending("observer", observer.tid);
	say("status process ShdPnd=%016llx SigIgn=%016llx SigCgt=%016llx",
	    (unsigned long long)(status_set(getpid(), observer.tid, "ShdPnd") & blocked),
	    (unsigned long long)status_set(getpid(), observer.tid, "SigIgn"),
	    (unsigned long long)status_set(getpid(), observer.tid, "SigCgt"));
}

static const char *stack_base(const struct thread *t, const stack_t *stack)
{
	if (!stack->ss_sp)
		return "null";
	return stack->ss_sp == t->stack ? "own" : "other";
}

struct look {
	uint64_t mask;
	stack_t stack;
	long error;
	char *sp;
};

static void look_in(struct thread *t, void *arg)
{
	struct look *look = arg;

	look->mask = get_mask();
	if (!t->seccomp_line || strcmp(t->seccomp_line->word[2], "kill"))
		look->error = syscall(SYS_sigaltstack, NULL, &look->stack);
	else
		look->error = 1;
	look->sp = __builtin_frame_address(0);
}

static void say_thread(struct thread *t, const char *where)
{
	struct look look = { 0 };
	char stack[64] = "unread";

	run_in(t, look_in, &look);
	if (!look.error)
		snprintf(stack, sizeof(stack), "%x %zu %s", (unsigned)look.stack.ss_flags, look.stack.ss_size,
			 stack_base(t, &look.stack));
	say("%s %d mask=%016llx altstack=%s on=%s", where, t->number, (unsigned long long)look.mask, stack,
	    t->stack && look.sp >= (char *)t->stack && look.sp < (char *)t->stack + t->stack_size ? "alt" : "main");
}

/* From the innermost on: nothing is let in by the masks that come back, before the queues have been read. */
static void leave_in(struct thread *t, void *arg)
{
	ucontext_t *context = t->context[t->depth - 1];

	memcpy(arg, &context->uc_sigmask, 8);
	memset(&context->uc_sigmask, 0xff, 8);
	t->leave = 1;
}

static void block_in(struct thread *t, void *nothing)
{
	(void)t;
	(void)nothing;
	set_mask(ALL);
}

void threads_block(void)
{
	for (struct thread *t = next_thread(NULL); t; t = next_thread(t))
		run_in(t, block_in, NULL);
}

static void leave_handlers(struct thread *t)
{
	uint64_t saved;

	say_thread(t, "thread");
	while (t->depth) {
		int depth = t->depth;

		saved = 0;
		run_in(t, leave_in, &saved);
		/* It is told something again when it has come out. */
		run_in(t, block_in, NULL);
		say("left %d depth %d saved=%016llx", t->number, depth, (unsigned long long)saved);
		say_thread(t, "outside");
	}
	run_in(t, block_in, NULL);
}

void threads_leave_handlers(void)
{
	for (struct thread *t = next_thread(NULL); t; t = next_thread(t))
		leave_handlers(t);
}
