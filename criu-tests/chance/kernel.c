// SPDX-License-Identifier: GPL-2.0-or-later
/* Raw system calls, and what /proc says. */
#include "chance.h"

#include <fcntl.h>
#include <linux/futex.h>

_Static_assert(sizeof(siginfo_t) == 128, "siginfo_t");
#ifdef __LP64__
_Static_assert(sizeof(struct action) == 32, "struct sigaction of the kernel");
#else
_Static_assert(sizeof(struct action) == 20, "struct sigaction of the kernel");
#endif

const char *proc_root = "/proc";

int get_action(int sig, struct action *action)
{
	return (int)syscall(SYS_rt_sigaction, sig, NULL, action, 8);
}

int set_action(int sig, const struct action *action)
{
	return (int)syscall(SYS_rt_sigaction, sig, action, NULL, 8);
}

uint64_t set_mask(uint64_t mask)
{
	uint64_t old = 0;

	if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, &old, 8))
		failed("rt_sigprocmask: %m");
	return old;
}

uint64_t get_mask(void)
{
	uint64_t mask = 0;

	if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &mask, 8))
		failed("rt_sigprocmask: %m");
	return mask;
}

pid_t gettid_raw(void)
{
	return (pid_t)syscall(SYS_gettid);
}

int futex_wait(int *word, int value, int64_t ns)
{
	struct timespec t = { (time_t)(ns / SECOND), (long)(ns % SECOND) };

	return (int)syscall(SYS_futex, word, FUTEX_WAIT, value, ns < 0 ? NULL : &t, NULL, 0);
}

void futex_wake(int *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

int take(uint64_t set, siginfo_t *info)
{
	struct timespec none = { 0, 0 };
	long sig;

	memset(info, 0, sizeof(*info));
	do
		sig = syscall(SYS_rt_sigtimedwait, &set, info, &none, 8);
	while (sig < 0 && errno == EINTR);
	return sig < 0 ? 0 : (int)sig;
}

int64_t now(clockid_t clock)
{
	struct timespec t;

	if (clock_gettime(clock, &t))
		failed("clock_gettime(%d): %m", (int)clock);
	return t.tv_sec * SECOND + t.tv_nsec;
}

void sleep_ns(int64_t ns)
{
	struct timespec t = { (time_t)(ns / SECOND), (long)(ns % SECOND) };

	if (ns > 0)
		syscall(SYS_nanosleep, &t, NULL);
}

struct patience patience(int64_t ns, int looks)
{
	return (struct patience){ now(CLOCK_MONOTONIC) + ns, looks };
}

int is_patient(struct patience *patience)
{
	return patience->looks-- > 0 || now(CLOCK_MONOTONIC) < patience->end;
}

static int slurp(pid_t pid, pid_t tid, const char *name, char *text, size_t size)
{
	char path[PATH_MAX + 64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%d/task/%d/%s", proc_root, pid, tid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, size - 1);
	close(fd);
	text[n < 0 ? 0 : n] = 0;
	return n > 0;
}

static const char *status_field(pid_t pid, pid_t tid, const char *field, char text[4096])
{
	char label[32];
	const char *at;

	snprintf(label, sizeof(label), "\n%s:", field);
	if (!slurp(pid, tid, "status", text, 4096))
		return NULL;
	at = strstr(text, label);
	return at ? at + strlen(label) : NULL;
}

int64_t status_number(pid_t pid, pid_t tid, const char *field)
{
	char text[4096];
	const char *at = status_field(pid, tid, field, text);

	return at ? strtoll(at, NULL, 10) : -1;
}

uint64_t status_set(pid_t pid, pid_t tid, const char *field)
{
	char text[4096];
	const char *at = status_field(pid, tid, field, text);

	if (!at)
		failed("no %s in /proc/%d/task/%d/status", field, pid, tid);
	return strtoull(at, NULL, 16);
}

char state_of(pid_t pid, pid_t tid)
{
	char text[1024], *at;

	if (!slurp(pid, tid, "stat", text, sizeof(text)) || !(at = strrchr(text, ')')) || !at[1])
		return 0;
	return at[2];
}

int sleeps_in(pid_t tid, long nr)
{
	char text[512], *end;
	long in;

	if (!slurp(getpid(), tid, "syscall", text, sizeof(text)))
		return 0;
	/* "running", or the number, arguments, stack and place. */
	in = strtol(text, &end, 10);
	return end != text && in == nr && strchr("SD", state_of(getpid(), tid)) != NULL;
}

void wait_state(pid_t pid, char state)
{
	int64_t end = now(CLOCK_MONOTONIC) + PATIENCE_NS;

	while (state_of(pid, pid) != state) {
		if (now(CLOCK_MONOTONIC) > end)
			failed("process %d comes to no state %c, it is %c", pid, state, state_of(pid, pid));
		sleep_ns(MS / 2);
	}
}
