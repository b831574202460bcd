// SPDX-License-Identifier: GPL-2.0-or-later
/* Queues of pending signals: filled, read in their order, taken. */
#include "chance.h"

#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define REFUSED 256
#define PEEK 128
#ifndef PTRACE_PEEKSIGINFO
#define PTRACE_PEEKSIGINFO 0x4209
#endif
#define PEEK_SHARED 1

/* Where `_sifields` and its `si_value` begin. */
#define FIELDS (sizeof(long) == 8 ? 16 : 12)
#define VALUE (FIELDS + 8)

struct peek {
	uint64_t off;
	uint32_t flags;
	int32_t nr;
};

static struct {
	int line, count;
} refused[REFUSED];
static int refusals;

/* ---- filling ------------------------------------------------------------------------------------------------- */

static void raw_bytes(const struct line *line, int word, unsigned char *bytes, size_t size)
{
	const char *text = line->word[word];
	size_t length = strlen(text);

	if (is(line, word, "-"))
		return;
	if (length % 2 || length / 2 > size || strspn(text, "0123456789abcdefABCDEF") != length)
		bad_plan(line, "the raw bytes are no pairs of hexadecimal digits, or more than %zu", size);
	for (size_t i = 0; i < length / 2; i++) {
		char pair[3] = { text[2 * i], text[2 * i + 1], 0 };

		bytes[i] = (unsigned char)strtoul(pair, NULL, 16);
	}
}

static int64_t times_of(const struct line *line, int word)
{
	int64_t times;
	char *end;

	if (word >= line->count)
		return 1;
	errno = 0;
	times = strtoll(line->word[word] + 1, &end, 10);
	if (*line->word[word] != 'x' || errno || *end || end == line->word[word] + 1 || times < 0 || times > 200000)
		bad_plan(line, "'%.20s' is no xCOUNT from x0 to x200000", line->word[word]);
	return times;
}

static void was_refused(const struct line *line)
{
	if (!refusals || refused[refusals - 1].line != line->number) {
		if (refusals == REFUSED)
			bad_plan(line, "more than %d lines are refused", REFUSED);
		refused[refusals++].line = line->number;
	}
	refused[refusals - 1].count++;
}

void queue_from(const struct line *line, int from, int shared)
{
	int sig = signal_of(line, from);
	int64_t times = times_of(line, from + 4);
	unsigned char raw[128] = { 0 };
	siginfo_t *info = (siginfo_t *)raw;
	uint32_t value, plus;

	if (sig == SIGKILL || sig == SIGSTOP)
		bad_plan(line, "SIGKILL and SIGSTOP do not stay pending");
	info->si_signo = sig;
	info->si_code = (int)number(line, from + 1, INT_MIN, UINT_MAX);
	info->si_errno = (int)number(line, from + 2, INT_MIN, UINT_MAX);
	raw_bytes(line, from + 3, raw + FIELDS, sizeof(raw) - FIELDS);
	memcpy(&value, raw + VALUE, 4);
	for (int64_t i = 0; i < times; i++) {
		long error;

		plus = value + (uint32_t)i;
		memcpy(raw + VALUE, &plus, 4);
		error = shared ? syscall(SYS_rt_sigqueueinfo, getpid(), sig, info) :
				 syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid_raw(), sig, info);
		if (error && errno == EAGAIN)
			was_refused(line);
		else if (error)
			bad_plan(line, "the kernel does not queue it: %m");
	}
}

static int is_shared(const struct line *line)
{
	return is(line, 1, "shared");
}

static void queue_in(struct thread *t, void *arg)
{
	(void)t;
	queue_from(arg, 2, is_shared(arg));
}

void do_queue(struct line *line)
{
	/* To send any code one must be the receiver itself: of what is shared that is the leader. */
	run_in(is_shared(line) ? &threads[0] : thread_of(line, 1), queue_in, line);
}

static void set_limit(const struct line *line, uint64_t soft, uint64_t hard)
{
	struct rlimit limit = { (rlim_t)soft, (rlim_t)hard };

	if (setrlimit(RLIMIT_SIGPENDING, &limit))
		bad_plan(line, "setrlimit(RLIMIT_SIGPENDING): %m");
}

static struct rlimit get_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_SIGPENDING, &limit))
		failed("getrlimit(RLIMIT_SIGPENDING): %m");
	return limit;
}

void do_limit(struct line *line)
{
	struct rlimit limit = get_limit();
	rlim_t soft = (rlim_t)number(line, 1, 0, INT_MAX);

	set_limit(line, soft, line->count > 2 ? (rlim_t)number(line, 2, 0, INT_MAX) : limit.rlim_max);
}

void do_bit(struct line *line)
{
	struct rlimit limit = get_limit();
	int sig = signal_of(line, 2);
	char code[16], number_text[16];
	char *words[] = { "bit", line->word[1], number_text, code, "0", "-" };
	struct line as_queue = { .number = line->number, .count = 6 };

	snprintf(number_text, sizeof(number_text), "%d", sig);
	snprintf(code, sizeof(code), "%d", sig < 32 ? SI_QUEUE : SI_USER);
	memcpy(as_queue.word, words, sizeof(words));
	set_limit(line, 0, limit.rlim_max);
	do_queue(&as_queue);
	set_limit(line, limit.rlim_cur, limit.rlim_max);
}

/* ---- what is said of them ------------------------------------------------------------------------------------ */

char *info_text(const siginfo_t *info, char *text)
{
	unsigned char bytes[128];
	int timer = is_timer(info), n = 0;
	uint32_t overrun = 0;
	size_t length = sizeof(bytes);

	memcpy(bytes, info, sizeof(bytes));
	if (timer) {
		/* The overrun, and the kernel's private word, which the next system call finds again. */
		memcpy(&overrun, bytes + FIELDS + 4, 4);
		memset(bytes + FIELDS + 4, 0, 4);
		memset(bytes + VALUE + sizeof(long), 0, 4);
	} else if (info->si_signo == SIGCHLD && info->si_code > 0 && info->si_code <= CLD_CONTINUED && is_child(info->si_pid)) {
		/* The processor time of the child. */
		memset(bytes + VALUE + (sizeof(long) == 8 ? 8 : 4), 0, 2 * sizeof(long));
	}
	while (length > 12 && !bytes[length - 1])
		length--;
	for (size_t i = 0; i < length; i++)
		n += sprintf(text + n, "%02x", bytes[i]);
	if (timer)
		sprintf(text + n, " ~overrun=%u", overrun);
	return text;
}

void refused_report(void)
{
	for (int i = 0; i < refusals; i++)
		say("refused %d %d", refused[i].line, refused[i].count);
}

void limit_report(void)
{
	struct rlimit limit = get_limit();

	say("limit %lld %lld", (long long)limit.rlim_cur, (long long)limit.rlim_max);
}

/* ---- read from outside --------------------------------------------------------------------------------------- */

static void peek_queue(pid_t tid, const char *name, uint32_t flags)
{
	static siginfo_t infos[PEEK];
	struct peek peek = { .flags = flags, .nr = PEEK };
	char text[INFO_TEXT];
	long n;

	while ((n = syscall(SYS_ptrace, PTRACE_PEEKSIGINFO, tid, &peek, infos)) > 0) {
		for (long i = 0; i < n; i++)
			say("list %s %s", name, info_text(&infos[i], text));
		peek.off += (uint64_t)n;
	}
	if (n < 0)
		failed("PTRACE_PEEKSIGINFO of thread %d: %m", tid);
}

static void peek_thread(pid_t process, pid_t tid, const char *name, int shared)
{
	int status;

	if (ptrace(PTRACE_SEIZE, tid, 0, 0) || ptrace(PTRACE_INTERRUPT, tid, 0, 0))
		failed("PTRACE_SEIZE of thread %d: %m", tid);
	if (waitpid(tid, &status, __WALL) != tid)
		failed("waiting for thread %d to stop: %m", tid);
	peek_queue(tid, name, 0);
	say("bits %s %016llx", name, (unsigned long long)status_set(process, tid, "SigPnd"));
	if (shared) {
		peek_queue(tid, "shared", PEEK_SHARED);
		say("bits shared %016llx", (unsigned long long)status_set(process, tid, "ShdPnd"));
	}
	if (ptrace(PTRACE_DETACH, tid, 0, 0))
		failed("PTRACE_DETACH of thread %d: %m", tid);
}

static void peek_all(pid_t process)
{
	char name[16];

	report_as("");
	for (struct thread *t = next_thread(NULL); t; t = next_thread(t)) {
		snprintf(name, sizeof(name), "%d", t->number);
		peek_thread(process, t->tid, name, 0);
	}
	peek_thread(process, observer.tid, "observer", 1);
	report_flush();
}

void lists_report(void)
{
	pid_t process = getpid(), pid;
	int status;

	report_flush();
	/* Without a signal at its end. */
	pid = (pid_t)syscall(SYS_clone, 0, 0, 0, 0, 0);
	if (pid < 0)
		failed("clone: %m");
	if (!pid) {
		peek_all(process);
		_exit(0);
	}
	do
		errno = 0;
	while (waitpid(pid, &status, __WALL) != pid && errno == EINTR);
	if (status)
		failed("the reader of the queues ended with status %x", (unsigned)status);
}

/* ---- taken --------------------------------------------------------------------------------------------------- */

/* More of these only keep coming: a timer of a microsecond. */
#define AGAIN 10000

static void take_in(struct thread *t, void *arg)
{
	uint64_t set = *(uint64_t *)arg;
	char text[INFO_TEXT];
	siginfo_t info;
	int again = 0;

	while (again < AGAIN && take(set, &info))
		if (is_timer_again(&info))
			again++;
		else
			say("take %d %s", t->number, info_text(&info, text));
}

/*
 * rt_sigtimedwait takes the thread's own signals before the shared ones, whatever their numbers: each thread would take
 * the shared ones too. So what is asked for are the numbers of its own queue, as long as it has any.
 */
static void take_private_in(struct thread *t, void *arg)
{
	char text[INFO_TEXT];
	siginfo_t info;
	uint64_t set;
	int again = 0;

	(void)arg;
	while (again < AGAIN && (set = status_set(getpid(), t->tid, "SigPnd")) != 0) {
		if (!take(set, &info)) {
			say("take %d nothing of %016llx", t->number, (unsigned long long)set);
			return;
		}
		if (is_timer_again(&info))
			again++;
		else
			say("take %d %s", t->number, info_text(&info, text));
	}
}

void take_report(void)
{
	uint64_t set = ALL;

	for (struct thread *t = next_thread(NULL); t; t = next_thread(t))
		run_in(t, take_private_in, NULL);
	run_in(first_thread(), take_in, &set);
}
