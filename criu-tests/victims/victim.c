// SPDX-License-Identifier: GPL-2.0-or-later
#include "victim.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/ptrace.h>

#define MAX_THREADS 80
#define MAX_CHILDREN 16
#define POLL_MS 2
/* Between two looks of a thread that waits for the end of the checkpoint: long, so that it is nearly always asleep. */
#define IDLE_MS 20
/* How long anything may take that normally takes milliseconds: the machine may be busy. */
#define PATIENCE_MS 60000
#define PEEK_CHUNK 256

_Static_assert(sizeof(siginfo_t) == 128, "siginfo_t");
#ifdef __LP64__
_Static_assert(sizeof(struct k_sigaction) == 32, "struct k_sigaction");
#else
_Static_assert(sizeof(struct k_sigaction) == 20, "struct k_sigaction");
#endif

static char run_dir[PATH_MAX];
static const char *scenario_arg = "";
static int failures;
/* 0 in the root of the tree, else the child's number + 1. */
static int child_number;
void (*victim_when_ready)(void);
int victim_by_number;

/* ---- syscalls ---------------------------------------------------------------------------------------------- */

void k_sigaction(int sig, const struct k_sigaction *set, struct k_sigaction *old)
{
	if (syscall(SYS_rt_sigaction, sig, set, old, sizeof(uint64_t)))
		victim_die("rt_sigaction(%d): %m", sig);
}

uint64_t k_setmask(uint64_t mask)
{
	uint64_t old;

	if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, &old, sizeof(old)))
		victim_die("rt_sigprocmask: %m");
	return old;
}

uint64_t k_getmask(void)
{
	uint64_t mask;

	if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &mask, sizeof(mask)))
		victim_die("rt_sigprocmask: %m");
	return mask;
}

int k_take(uint64_t set, siginfo_t *info)
{
	struct timespec none = { 0, 0 };
	long sig;

	/* Bytes that the kernel does not write must not look as if it had. */
	memset(info, 0xee, sizeof(*info));
	do
		sig = syscall(SYS_rt_sigtimedwait, &set, info, &none, sizeof(set));
	while (sig < 0 && errno == EINTR);
	if (sig < 0 && errno != EAGAIN)
		victim_die("rt_sigtimedwait: %m");
	return sig < 0 ? 0 : (int)sig;
}

void k_queue_shared(const siginfo_t *info)
{
	if (syscall(SYS_rt_sigqueueinfo, getpid(), info->si_signo, info))
		victim_die("rt_sigqueueinfo(%d, code %d): %m", info->si_signo, info->si_code);
}

void k_queue_private(const siginfo_t *info)
{
	if (syscall(SYS_rt_tgsigqueueinfo, getpid(), k_gettid(), info->si_signo, info))
		victim_die("rt_tgsigqueueinfo(%d, code %d): %m", info->si_signo, info->si_code);
}

void k_tgkill(pid_t tid, int sig)
{
	if (syscall(SYS_tgkill, getpid(), tid, sig))
		victim_die("tgkill(%d, %d): %m", tid, sig);
}

pid_t k_gettid(void)
{
	return (pid_t)syscall(SYS_gettid);
}

long long k_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

int k_timer(int sig, int value)
{
	struct sigevent event;
	int id;

	memset(&event, 0, sizeof(event));
	event.sigev_notify = SIGEV_SIGNAL;
	event.sigev_signo = sig;
	event.sigev_value.sival_int = value;
	if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id))
		victim_die("timer_create: %m");
	return id;
}

void k_sleep_ms(int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000l };

	syscall(SYS_nanosleep, &t, NULL);
}

#if defined(__x86_64__)
__asm__("restore_rt:\n\tmov $15, %eax\n\tsyscall\n");
#elif defined(__aarch64__)
__asm__("restore_rt:\n\tmov x8, #139\n\tsvc #0\n");
#else
/* A handler without SA_SIGINFO has the old frame, with another way back and the number on top of it. */
__asm__("restore:\n\tpop %eax\n\tmov $119, %eax\n\tint $0x80\n");
__asm__("restore_rt:\n\tmov $173, %eax\n\tint $0x80\n");
extern void restore(void);
#endif
extern void restore_rt(void);

unsigned long victim_restorer(unsigned long flags)
{
#ifdef __i386__
	if (!(flags & SA_SIGINFO))
		return (unsigned long)restore;
#endif
	(void)flags;
	return (unsigned long)restore_rt;
}

siginfo_t info_value(int sig, int value)
{
	siginfo_t info;

	memset(&info, 0, sizeof(info));
	info.si_signo = sig;
	info.si_code = SI_QUEUE;
	info.si_pid = getpid();
	info.si_uid = getuid();
	info.si_int = value;
	return info;
}

siginfo_t info_pattern(int sig, int code, unsigned char seed, size_t len)
{
	size_t start = sizeof(info_value(0, 0)) - INFO_WHOLE;
	unsigned char *bytes;
	siginfo_t info;

	memset(&info, 0, sizeof(info));
	info.si_signo = sig;
	info.si_errno = 0x01020300 + seed;
	info.si_code = code;
	bytes = (unsigned char *)&info;
	for (size_t i = 0; i < len && start + i < sizeof(info); i++)
		bytes[start + i] = (unsigned char)(seed * 7 + i * 3 + 1);
	return info;
}

/* ---- what is said about it --------------------------------------------------------------------------------- */

void victim_path(char *path, const char *name)
{
	if (snprintf(path, PATH_MAX, "%s/%s", run_dir, name) >= PATH_MAX)
		_exit(3);
}

static void append(const char *text)
{
	char path[PATH_MAX];
	int fd;

	victim_path(path, "out");
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		_exit(3);
	close(fd);
}

void victim_write_file(const char *name, const char *text)
{
	char path[PATH_MAX], half[PATH_MAX + 8];
	int fd;

	victim_path(path, name);
	snprintf(half, sizeof(half), "%s.half", path);
	fd = open(half, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, text, strlen(text)) < 0 || close(fd) || rename(half, path))
		victim_die("writing %s: %m", path);
}

void victim_die(const char *what, ...)
{
	int err = errno;
	char text[512];
	char line[600];
	va_list args;

	va_start(args, what);
	errno = err;
	vsnprintf(text, sizeof(text), what, args);
	va_end(args);
	snprintf(line, sizeof(line), "FAIL: set-up: %s\n", text);
	append(line);
	_exit(2);
}

void victim_fail(const char *what, const char *expected, const char *got)
{
	char line[1024], who[32] = "";

	if (child_number)
		snprintf(who, sizeof(who), "child %d: ", child_number - 1);
	snprintf(line, sizeof(line), "FAIL: %s%s, expected %s, got %s\n", who, what, expected, got);
	append(line);
	__atomic_add_fetch(&failures, 1, __ATOMIC_SEQ_CST);
}

#define FORMAT_WHAT(text)                                  \
	char text[256];                                    \
	do {                                               \
		va_list args;                              \
		va_start(args, what);                      \
		vsnprintf(text, sizeof(text), what, args); \
		va_end(args);                              \
	} while (0)

void expect_u64(uint64_t expected, uint64_t got, const char *what, ...)
{
	char e[32], g[32];

	if (expected == got)
		return;
	FORMAT_WHAT(text);
	snprintf(e, sizeof(e), "%016llx", (unsigned long long)expected);
	snprintf(g, sizeof(g), "%016llx", (unsigned long long)got);
	victim_fail(text, e, g);
}

void expect_int(long expected, long got, const char *what, ...)
{
	char e[32], g[32];

	if (expected == got)
		return;
	FORMAT_WHAT(text);
	snprintf(e, sizeof(e), "%ld", expected);
	snprintf(g, sizeof(g), "%ld", got);
	victim_fail(text, e, g);
}

/* The 16 bytes of an entry around the first one that differs, after its number and code. */
static void describe(char *text, size_t size, const siginfo_t *info, size_t from)
{
	const unsigned char *bytes = (const unsigned char *)info;
	int n = snprintf(text, size, "signal %d code %d [%zu..]", info->si_signo, info->si_code, from);

	for (size_t i = from; i < from + 16 && i < sizeof(*info); i++)
		n += snprintf(text + n, size - (size_t)n, " %02x", bytes[i]);
}

/*
 * What the kernel notes in the entry of a POSIX timer: before 6.13 PTRACE_PEEKSIGINFO shows it, an odd number, which counts
 * how often the timer was armed. It is no part of what is delivered.
 */
static siginfo_t without_private(const siginfo_t *info)
{
	siginfo_t copy = *info;
	int *private = (int *)((char *)&copy.si_value + sizeof(copy.si_value));

	if (copy.si_code == SI_TIMER && *private & 1)
		*private = 0;
	return copy;
}

void expect_info(const siginfo_t *expected_info, const siginfo_t *got_info, const char *what, ...)
{
	siginfo_t expected_copy = without_private(expected_info), got_copy = without_private(got_info);
	const siginfo_t *expected = &expected_copy, *got = &got_copy;
	char e[160], g[160];
	size_t i = 0;

	while (i < sizeof(*got) && ((unsigned char *)expected)[i] == ((unsigned char *)got)[i])
		i++;
	if (i == sizeof(*got))
		return;
	FORMAT_WHAT(text);
	i -= i % 8;
	describe(e, sizeof(e), expected, i);
	describe(g, sizeof(g), got, i);
	victim_fail(text, e, g);
}

/* ---- /proc ------------------------------------------------------------------------------------------------- */

static ssize_t slurp(const char *path, char *buf, size_t size)
{
	ssize_t n, len = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	while ((n = read(fd, buf + len, size - 1 - (size_t)len)) > 0)
		len += n;
	close(fd);
	buf[len] = 0;
	return n < 0 ? -1 : len;
}

static const char *status_field(const char *status, const char *name)
{
	const char *at = strstr(status, name);

	if (!at)
		victim_die("no %s in /proc", name);
	return at + strlen(name);
}

static uint64_t status_set(const char *status, const char *name)
{
	return strtoull(status_field(status, name), NULL, 16);
}

/*
 * The thread's id as it sees it itself: the last column of NSpid. The folder's name is the id in the namespace
 * of the /proc that is mounted, and a victim in a namespace of its own does not mount one.
 */
static pid_t status_tid(const char *status)
{
	const char *at = status_field(status, "\nNSpid:");
	pid_t tid = 0;

	while (*at == '\t' || *at == ' ')
		tid = (pid_t)strtol(at + 1, (char **)&at, 10);
	return tid;
}

uint64_t victim_shared_pending(void)
{
	char buf[4096];

	if (slurp("/proc/self/status", buf, sizeof(buf)) < 0)
		victim_die("/proc/self/status: %m");
	return status_set(buf, "\nShdPnd:");
}

char victim_state_of(pid_t pid)
{
	char path[64], buf[1024];
	const char *at;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (slurp(path, buf, sizeof(buf)) <= 0 || !(at = strrchr(buf, ')')))
		return 0;
	return at[2];
}

int victim_comes_to(pid_t pid, char state)
{
	for (int i = 0; i < PATIENCE_MS; i++) {
		char found = victim_state_of(pid);

		if (found == state)
			return 1;
		if (found == 'Z' || !found)
			return 0;
		k_sleep_ms(1);
	}
	return 0;
}

void victim_expect_stopped(pid_t pid, const char *what)
{
	char got[2] = { 0 };

	if (victim_comes_to(pid, 'T'))
		return;
	got[0] = victim_state_of(pid);
	victim_fail(what, "T", got);
}

/* ---- threads ----------------------------------------------------------------------------------------------- */

struct thread {
	pthread_t handle;
	void (*fn)(int);
	int index;
	pid_t tid;
	/* The syscall in which it sits while the checkpoint is made; -1: any. */
	long syscall;
	int settled;
};

/* [0] is the leader. */
static struct thread threads[MAX_THREADS];
static int nthreads = 1;
static int released;

static struct thread *self(void)
{
	pid_t tid = k_gettid();

	for (int i = 0; i < nthreads; i++)
		if (threads[i].tid == tid)
			return &threads[i];
	victim_die("thread %d is not one of ours", tid);
}

int victim_released(void)
{
	return __atomic_load_n(&released, __ATOMIC_SEQ_CST);
}

void victim_settle(long nr)
{
	struct thread *t = self();

	t->syscall = nr;
	__atomic_store_n(&t->settled, 1, __ATOMIC_SEQ_CST);
}

static stack_t altstack_now(void)
{
	stack_t ss;

	memset(&ss, 0, sizeof(ss));
	if (syscall(SYS_sigaltstack, NULL, &ss))
		victim_die("sigaltstack: %m");
	return ss;
}

static void compare_altstack(const stack_t *before)
{
	stack_t after = altstack_now();
	pid_t tid = k_gettid();

	expect_u64((uintptr_t)before->ss_sp, (uintptr_t)after.ss_sp, "thread %d altstack sp", tid);
	expect_u64((unsigned int)before->ss_flags, (unsigned int)after.ss_flags, "thread %d altstack flags", tid);
	expect_u64(before->ss_size, after.ss_size, "thread %d altstack size", tid);
}

void victim_pause(void)
{
	stack_t before = altstack_now();

	victim_settle(-1);
	while (!victim_released())
		k_sleep_ms(IDLE_MS);
	compare_altstack(&before);
}

static void *thread_main(void *arg)
{
	struct thread *t = arg;

	__atomic_store_n(&t->tid, k_gettid(), __ATOMIC_SEQ_CST);
	t->fn(t->index);
	return NULL;
}

/*
 * A thread that said it would sit in a syscall is only really there, with the syscall's own mask in force, when
 * /proc says so. Signals apart, this is needed again after each stop: the restart of a sigsuspend puts the saved
 * mask back for an instant.
 */
static void wait_until_inside(const struct thread *t)
{
	char path[64], buf[256];

	if (t->syscall < 0)
		return;
	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", t->tid);
	for (int i = 0; i < PATIENCE_MS / POLL_MS; i++) {
		if (slurp(path, buf, sizeof(buf)) > 0 && buf[0] >= '0' && buf[0] <= '9' &&
		    strtol(buf, NULL, 10) == t->syscall)
			return;
		k_sleep_ms(POLL_MS);
	}
	victim_fail("thread sits in its syscall", "yes", buf);
}

static void wait_until_settled(void)
{
	for (int i = 0; i < nthreads; i++)
		wait_until_inside(&threads[i]);
}

pid_t victim_thread(void (*fn)(int), int index)
{
	struct thread *t = &threads[nthreads];

	if (nthreads == MAX_THREADS)
		victim_die("too many threads");
	*t = (struct thread){ .fn = fn, .index = index, .syscall = -1 };
	/* Counted first: the thread looks itself up. */
	nthreads++;
	if ((errno = pthread_create(&t->handle, NULL, thread_main, t)))
		victim_die("pthread_create: %m");
	while (!__atomic_load_n(&t->settled, __ATOMIC_SEQ_CST))
		k_sleep_ms(1);
	wait_until_inside(t);
	return t->tid;
}

/* ---- how long it stands still ------------------------------------------------------------------------------ */

static unsigned long longest_us;
static int has_clock;

static void *clock_main(void *arg)
{
	struct sched_param first = { .sched_priority = 1 };
	struct timespec now, last, nap = { .tv_nsec = 200 * 1000 };

	(void)arg;
	/* From here on its mask is as it stays: libc starts a thread with its own two signals blocked as well. */
	__atomic_store_n(&has_clock, 1, __ATOMIC_SEQ_CST);
	/* Not everybody may. */
	sched_setscheduler(0, SCHED_FIFO, &first);
	clock_gettime(CLOCK_MONOTONIC, &last);
	for (;;) {
		long long us;

		nanosleep(&nap, NULL);
		clock_gettime(CLOCK_MONOTONIC, &now);
		us = (now.tv_sec - last.tv_sec) * 1000000ll + (now.tv_nsec - last.tv_nsec) / 1000;
		if ((unsigned long)us > __atomic_load_n(&longest_us, __ATOMIC_SEQ_CST))
			__atomic_store_n(&longest_us, (unsigned long)us, __ATOMIC_SEQ_CST);
		last = now;
	}
	return NULL;
}

void victim_clock(void)
{
	/* Inherited: what is sent to the process is for others. */
	uint64_t mask = k_setmask(ALL_SIGNALS);
	pthread_t thread;

	if ((errno = pthread_create(&thread, NULL, clock_main, NULL)))
		victim_die("pthread_create: %m");
	k_setmask(mask);
	while (!__atomic_load_n(&has_clock, __ATOMIC_SEQ_CST))
		sched_yield();
}

static void note_standstill(void)
{
	char text[32];

	snprintf(text, sizeof(text), "%lu", __atomic_load_n(&longest_us, __ATOMIC_SEQ_CST));
	victim_write_file("standstill", text);
}

/* ---- the state, taken and compared ------------------------------------------------------------------------- */

struct queue {
	int n;
	siginfo_t *info;
};

struct thread_state {
	pid_t tid;
	uint64_t pending;
	/* SigBlk: in force. What PTRACE_GETSIGMASK gives: the one that comes back after sigsuspend and the like. */
	uint64_t blocked, saved;
	struct queue queue;
};

struct state {
	uint64_t shared_pending;
	struct k_sigaction action[K_NSIG + 1];
	struct queue shared;
	int nthreads;
	struct thread_state thread[MAX_THREADS];
};

static struct state before, after;

static void take_status(struct state *s)
{
	char path[300], buf[4096];
	struct dirent *entry;
	DIR *dir = opendir("/proc/self/task");

	if (!dir)
		victim_die("/proc/self/task: %m");
	s->nthreads = 0;
	while ((entry = readdir(dir))) {
		struct thread_state *t = &s->thread[s->nthreads];

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%s/status", entry->d_name);
		if (slurp(path, buf, sizeof(buf)) < 0)
			victim_die("%s: %m", path);
		if (s->nthreads == MAX_THREADS)
			victim_die("too many threads");
		t->tid = status_tid(buf);
		t->pending = status_set(buf, "\nSigPnd:");
		t->blocked = status_set(buf, "\nSigBlk:");
		s->shared_pending = status_set(buf, "\nShdPnd:");
		s->nthreads++;
	}
	closedir(dir);
}

/*
 * Queues can be read without taking anything out by a tracer only. A process cannot trace itself, so a helper
 * does it: a child that shares this memory, and whose end is announced by no signal.
 */
struct peek {
	struct state *state;
	pid_t leader;
	/* The helper's errno is the caller's as well, so what failed is said here. */
	const char *failed;
	int err;
};

static int peek_queue(pid_t tid, unsigned int flags, struct queue *q)
{
	struct {
		uint64_t off;
		uint32_t flags;
		int32_t nr;
	} args = { 0, flags, PEEK_CHUNK };

	q->n = 0;
	for (;;) {
		long n;

		/* Bytes that the kernel does not write stay as they are: the buffer is calloc()ed. */
		n = ptrace(PTRACE_PEEKSIGINFO, tid, &args, q->info + q->n);
		if (n < 0)
			return -1;
		if (!n)
			return 0;
		q->n += (int)n;
		args.off += (uint64_t)n;
	}
}

static int peek_thread(struct peek *p, struct thread_state *t)
{
	int status, sig = 0;

	p->failed = "PTRACE_SEIZE";
	if (ptrace(PTRACE_SEIZE, t->tid, 0, 0))
		return -1;
	p->failed = "PTRACE_INTERRUPT";
	if (ptrace(PTRACE_INTERRUPT, t->tid, 0, 0))
		return -1;
	for (;;) {
		p->failed = "waitpid";
		if (waitpid(t->tid, &status, __WALL) != t->tid || !WIFSTOPPED(status))
			return -1;
		if (status >> 16 == PTRACE_EVENT_STOP)
			break;
		sig = WSTOPSIG(status);
		p->failed = "PTRACE_CONT";
		if (ptrace(PTRACE_CONT, t->tid, 0, (long)sig))
			return -1;
	}
	p->failed = "PTRACE_GETSIGMASK";
	if (ptrace(PTRACE_GETSIGMASK, t->tid, sizeof(t->saved), &t->saved))
		return -1;
	p->failed = "PTRACE_PEEKSIGINFO";
	if (peek_queue(t->tid, 0, &t->queue))
		return -1;
	p->failed = "PTRACE_PEEKSIGINFO_SHARED";
	if (t->tid == p->leader && peek_queue(t->tid, PTRACE_PEEKSIGINFO_SHARED, &p->state->shared))
		return -1;
	p->failed = "PTRACE_DETACH";
	if (ptrace(PTRACE_DETACH, t->tid, 0, 0))
		return -1;
	p->failed = NULL;
	return 0;
}

static int peek_main(void *arg)
{
	struct peek *p = arg;
	uint64_t all = ALL_SIGNALS;

	/* The tracer gets a SIGCHLD at each stop, and has the victim's handlers. */
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof(all));
	for (int i = 0; i < p->state->nthreads; i++)
		if (peek_thread(p, &p->state->thread[i])) {
			p->err = errno;
			return 1;
		}
	return 0;
}

static void queue_room(struct queue *q, int depth)
{
	free(q->info);
	q->n = 0;
	q->info = calloc((size_t)depth, sizeof(siginfo_t));
	if (!q->info)
		victim_die("out of memory");
}

/* How many entries a queue of this victim can hold at most. */
static int queue_depth(void)
{
	char buf[4096];

	if (slurp("/proc/self/status", buf, sizeof(buf)) < 0)
		victim_die("/proc/self/status: %m");
	/* SigQ counts all processes of the user: too much, never too little. */
	return (int)strtol(status_field(buf, "\nSigQ:") + 1, NULL, 10) + PEEK_CHUNK;
}

static void take_queues(struct state *s)
{
	enum { STACK = 64 * 1024 };
	static char *stack;
	struct peek p = { .state = s, .leader = getpid() };
	int depth = queue_depth();
	pid_t helper;
	int status;

	if (!stack && !(stack = malloc(STACK)))
		victim_die("out of memory");
	queue_room(&s->shared, depth);
	for (int i = 0; i < s->nthreads; i++) {
		queue_room(&s->thread[i].queue, depth);
	}
	helper = clone(peek_main, stack + STACK, CLONE_VM, &p);
	if (helper < 0)
		victim_die("clone: %m");
	/* Not restarted by us but by the kernel when the helper stops this thread. */
	while (waitpid(helper, &status, __WALL) < 0)
		if (errno != EINTR)
			victim_die("waitpid of the helper: %m");
	if (p.failed) {
		errno = p.err;
		victim_die("%s: %m", p.failed);
	}
}

static void take_state(struct state *s)
{
	wait_until_settled();
	for (int sig = 1; sig <= K_NSIG; sig++)
		k_sigaction(sig, NULL, &s->action[sig]);
	take_status(s);
	take_queues(s);
	wait_until_settled();
}

/* Sorts a queue by number. Entries of one number stay in their order. */
static void sort_by_number(struct queue *q)
{
	siginfo_t *sorted = calloc((size_t)q->n + 1, sizeof(*sorted));
	int n = 0;

	if (!sorted)
		victim_die("out of memory");
	for (int sig = 1; sig <= K_NSIG; sig++)
		for (int i = 0; i < q->n; i++)
			if (q->info[i].si_signo == sig)
				sorted[n++] = q->info[i];
	memcpy(q->info, sorted, (size_t)n * sizeof(*sorted));
	free(sorted);
}

static void compare_queue(struct queue *a, struct queue *b, const char *which, pid_t tid)
{
	if (victim_by_number) {
		sort_by_number(a);
		sort_by_number(b);
	}
	expect_int(a->n, b->n, "thread %d %s queue, length", tid, which);
	for (int i = 0; i < a->n && i < b->n; i++)
		expect_info(&a->info[i], &b->info[i], "thread %d %s queue, entry %d", tid, which, i);
}

static struct thread_state *state_of(struct state *s, pid_t tid)
{
	for (int i = 0; i < s->nthreads; i++)
		if (s->thread[i].tid == tid)
			return &s->thread[i];
	return NULL;
}

static void compare_state(void)
{
	for (int sig = 1; sig <= K_NSIG; sig++) {
		const struct k_sigaction *a = &before.action[sig], *b = &after.action[sig];

		expect_u64(a->handler, b->handler, "signal %d handler", sig);
		expect_u64(a->flags, b->flags, "signal %d flags", sig);
		expect_u64(a->restorer, b->restorer, "signal %d restorer", sig);
		expect_u64(a->mask, b->mask, "signal %d mask", sig);
	}
	expect_int(before.nthreads, after.nthreads, "number of threads");
	for (int i = 0; i < before.nthreads; i++) {
		struct thread_state *a = &before.thread[i], *b = state_of(&after, a->tid);

		if (!b) {
			expect_int(a->tid, 0, "thread");
			continue;
		}
		expect_u64(a->blocked, b->blocked, "thread %d SigBlk", a->tid);
		expect_u64(a->saved, b->saved, "thread %d saved mask", a->tid);
		expect_u64(a->pending, b->pending, "thread %d SigPnd", a->tid);
		compare_queue(&a->queue, &b->queue, "private", a->tid);
	}
	expect_u64(before.shared_pending, after.shared_pending, "ShdPnd");
	compare_queue(&before.shared, &after.shared, "shared", getpid());
}

/* ---- taking out -------------------------------------------------------------------------------------------- */

/*
 * The kernel hands out by number, and entries of one number in the order of the list. So each entry taken must
 * be the first one of its number that is left.
 */
static void drain_queue(const struct queue *q, const char *which)
{
	char *used = calloc((size_t)q->n + 1, 1);
	int first[K_NSIG + 1] = { 0 };
	siginfo_t info;

	for (int taken = 0; taken < q->n; taken++) {
		int sig = k_take(ALL_SIGNALS, &info), i;

		if (!sig) {
			expect_int(q->n, taken, "entries that can be taken from the %s queue", which);
			break;
		}
		for (i = first[sig]; i < q->n; i++)
			if (!used[i] && q->info[i].si_signo == sig)
				break;
		first[sig] = i + 1;
		if (i == q->n) {
			expect_int(0, sig, "signal taken from the %s queue", which);
			continue;
		}
		used[i] = 1;
		expect_info(&q->info[i], &info, "entry %d taken from the %s queue", i, which);
	}
	free(used);
}

void victim_drain(void)
{
	pid_t tid = k_gettid();
	struct thread_state *t = state_of(&before, tid);
	siginfo_t info;

	if (!t)
		victim_die("thread %d was not recorded", tid);
	if (k_getmask() != ALL_SIGNALS)
		k_setmask(ALL_SIGNALS);
	drain_queue(&t->queue, "private");
	if (tid != getpid())
		return;
	drain_queue(&before.shared, "shared");
	expect_int(0, k_take(ALL_SIGNALS, &info), "signal left when everything is taken");
}

/* ---- the tree ---------------------------------------------------------------------------------------------- */

/* A page that the whole tree shares. */
struct tree {
	int go;
	int ready[MAX_CHILDREN];
};

static struct tree *tree;
static pid_t children[MAX_CHILDREN];
static int nchildren;

pid_t victim_child(void (*fn)(int), int index)
{
	int number = nchildren;
	pid_t pid;

	if (!tree) {
		tree = mmap(NULL, sizeof(*tree), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (tree == MAP_FAILED)
			victim_die("mmap: %m");
	}
	if (number == MAX_CHILDREN || nthreads > 1 || child_number)
		victim_die("children come first, and have none");
	pid = fork();
	if (pid < 0)
		victim_die("fork: %m");
	if (!pid) {
		child_number = number + 1;
		threads[0].tid = k_gettid();
		nchildren = 0;
		victim_when_ready = NULL;
		fn(index);
		_exit(victim_end());
	}
	children[nchildren++] = pid;
	return pid;
}

static void wait_for_children(void)
{
	for (int i = 0; i < nchildren; i++)
		while (!__atomic_load_n(&tree->ready[i], __ATOMIC_SEQ_CST)) {
			if (waitpid(children[i], NULL, WNOHANG | __WALL) == children[i])
				victim_die("child %d ended before it was ready", i);
			k_sleep_ms(1);
		}
}

static void wait_for_go(void)
{
	char path[PATH_MAX];

	if (child_number) {
		while (!__atomic_load_n(&tree->go, __ATOMIC_SEQ_CST))
			k_sleep_ms(IDLE_MS);
		return;
	}
	victim_path(path, "go");
	while (access(path, F_OK))
		k_sleep_ms(IDLE_MS);
}

/* ---- the course -------------------------------------------------------------------------------------------- */

void victim_begin(int argc, char **argv)
{
	static const struct k_sigaction default_action;

	if (argc < 2 || strlen(argv[1]) + 32 > sizeof(run_dir)) {
		fprintf(stderr, "usage: %s RUN_DIR [ARG]\n", argv[0]);
		exit(2);
	}
	strcpy(run_dir, argv[1]);
	if (argc > 2)
		scenario_arg = argv[2];
	/* Whatever was open in those who started this: criu would have to find it again. */
	syscall(SYS_close_range, 3, ~0u, 0);
	/* Nor does the state depend on who started it. */
	for (int sig = 1; sig <= K_NSIG; sig++)
		if (sig != SIGKILL && sig != SIGSTOP)
			k_sigaction(sig, &default_action, NULL);
	k_setmask(0);
	/* A session of its own, so that criu needs no --shell-job. It may lead one already. */
	setsid();
	threads[0] = (struct thread){ .tid = k_gettid(), .syscall = -1, .settled = 1 };
}

const char *victim_arg(void)
{
	return scenario_arg;
}

void victim_checkpoint(void)
{
	stack_t altstack = altstack_now();

	wait_for_children();
	take_state(&before);
	if (child_number)
		__atomic_store_n(&tree->ready[child_number - 1], 1, __ATOMIC_SEQ_CST);
	else
		victim_write_file("ready", "");
	if (victim_when_ready)
		victim_when_ready();
	wait_for_go();
	take_state(&after);
	compare_state();
	compare_altstack(&altstack);
	__atomic_store_n(&released, 1, __ATOMIC_SEQ_CST);
	if (tree && !child_number)
		__atomic_store_n(&tree->go, 1, __ATOMIC_SEQ_CST);
}

int victim_end(void)
{
	for (int i = 1; i < nthreads; i++)
		pthread_join(threads[i].handle, NULL);
	for (int i = 0; i < nchildren; i++) {
		int status = -1;

		while (waitpid(children[i], &status, __WALL) < 0)
			if (errno != EINTR) {
				victim_fail("waiting for a child", "its end", strerror(errno));
				break;
			}
		expect_int(0, status, "child %d, exit status", i);
	}
	if (has_clock && !child_number)
		note_standstill();
	if (failures)
		return 1;
	if (!child_number)
		append("PASS\n");
	return 0;
}
