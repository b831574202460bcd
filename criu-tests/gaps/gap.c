// SPDX-License-Identifier: GPL-2.0-or-later
#include "gap.h"

#include <limits.h>
#include <stdarg.h>

static char run_dir[PATH_MAX];
static const char *sub = "";
static char outcome[8192] = "outcome: ";
static size_t outcome_len = sizeof("outcome: ") - 1;
static int counted;
static double slower = 1;

static void path_of(char *path, const char *name)
{
	if (snprintf(path, PATH_MAX, "%s/%s", run_dir, name) >= PATH_MAX)
		_exit(3);
}

/* By renaming, so that nobody reads half of it. */
static void write_file(const char *name, const char *text)
{
	char path[PATH_MAX], half[PATH_MAX + 8];
	int fd;

	path_of(path, name);
	snprintf(half, sizeof(half), "%s.half", path);
	fd = open(half, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0 || write(fd, text, strlen(text)) < 0 || close(fd) || rename(half, path))
		_exit(3);
}

void gap_begin(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: %s RUN_DIR [SUB-CASE [SLOWER]]\n", argv[0]);
		exit(2);
	}
	strncpy(run_dir, argv[1], sizeof(run_dir) - 1);
	if (argc > 2)
		sub = argv[2];
	if (argc > 3)
		slower = atof(argv[3]);
	/* What whoever called the runner left open may be of a mount that criu does not see. */
	if (syscall(SYS_close_range, 3u, ~0u, 0))
		gap_die("close_range: %m");
	/* criu would want --shell-job for what has no session leader in its tree. It may lead one already. */
	setsid();
}

int gap_is(const char *name)
{
	return !strcmp(sub, name);
}

const char *gap_sub(void)
{
	return sub;
}

pid_t gap_outside_of(void (*fn)(void))
{
	pid_t between, root;
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) || (between = fork()) < 0)
		gap_die("fork: %m");
	if (!between) {
		root = fork();
		if (root) {
			_exit(root < 0 || write(fds[1], &root, sizeof(root)) != sizeof(root));
		}
		close(fds[0]);
		close(fds[1]);
		setsid();
		/* What it is to be: init's. A parent that is still the one in between would show in the dump. */
		while (getppid() != 1)
			gap_sleep(1);
		fn();
		_exit(0);
	}
	close(fds[1]);
	if (read(fds[0], &root, sizeof(root)) != sizeof(root))
		gap_die("the root of the tree: %m");
	close(fds[0]);
	waitpid(between, NULL, 0);
	return root;
}

int gap_has(const char *file)
{
	char path[PATH_MAX];

	path_of(path, file);
	return !access(path, F_OK);
}

void gap_touch(const char *file)
{
	write_file(file, "");
}

void gap_wait_for(const char *file)
{
	while (!gap_has(file))
		gap_sleep(2);
}

void gap_ready(pid_t root)
{
	char text[32];

	snprintf(text, sizeof(text), "%d", root);
	write_file("ready", text);
}

double gap_slower(void)
{
	return slower;
}

void gap_lasts(double seconds)
{
	char text[32];

	snprintf(text, sizeof(text), "%.0f", seconds > 0 ? seconds * 1000 : 0);
	write_file("lasts", text);
}

void gap_checkpoint(void)
{
	gap_ready(getpid());
	gap_wait_for("go");
}

void gap_say(const char *text, ...)
{
	va_list args;
	int n;

	if (outcome_len > sizeof("outcome: ") - 1)
		outcome_len += (size_t)snprintf(outcome + outcome_len, sizeof(outcome) - outcome_len, "; ");
	va_start(args, text);
	n = vsnprintf(outcome + outcome_len, sizeof(outcome) - outcome_len, text, args);
	va_end(args);
	outcome_len += (size_t)n;
	if (outcome_len >= sizeof(outcome) - 4)
		_exit(3);
}

void gap_end(void)
{
	strcpy(outcome + outcome_len, "\n");
	write_file("out", outcome);
	_exit(0);
}

void gap_die(const char *text, ...)
{
	char line[512], whole[600];
	int err = errno;
	va_list args;

	va_start(args, text);
	errno = err;
	vsnprintf(line, sizeof(line), text, args);
	va_end(args);
	snprintf(whole, sizeof(whole), "set-up: %s\n", line);
	write_file("out", whole);
	_exit(2);
}

void gap_sleep(int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000l };

	syscall(SYS_nanosleep, &t, NULL);
}

double gap_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

pid_t gap_tid(void)
{
	return (pid_t)syscall(SYS_gettid);
}

uint64_t gap_setmask(uint64_t mask)
{
	uint64_t old;

	if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, &old, sizeof(old)))
		gap_die("rt_sigprocmask: %m");
	return old;
}

int gap_take(uint64_t set, siginfo_t *info)
{
	struct timespec none = { 0, 0 };
	long sig;

	memset(info, 0, sizeof(*info));
	do
		sig = syscall(SYS_rt_sigtimedwait, &set, info, &none, sizeof(set));
	while (sig < 0 && errno == EINTR);
	return sig < 0 ? 0 : (int)sig;
}

const char *gap_name(int sig)
{
	static char rt[4][16];
	static int next;
	char *buf;

	if (sig > 0 && sig < 32)
		return strcmp(sigabbrev_np(sig), "") ? sigabbrev_np(sig) : "?";
	buf = rt[next++ % 4];
	snprintf(buf, sizeof(rt[0]), "RTMIN%+d", sig - SIGRTMIN);
	return buf;
}

char *gap_names(uint64_t set, char *buf)
{
	int n = 0;

	if (!set)
		return strcpy(buf, "none");
	for (int sig = 1; sig <= 64; sig++)
		if (set & BIT(sig))
			n += snprintf(buf + n, (size_t)(1024 - n), "%sSIG%s", n ? " " : "", gap_name(sig));
	return buf;
}

static const char *code_name(const siginfo_t *info)
{
	static char number[24];

	switch (info->si_code) {
	case SI_USER:
		return "SI_USER";
	case SI_QUEUE:
		return "SI_QUEUE";
	case SI_TKILL:
		return "SI_TKILL";
	case SI_TIMER:
		return "SI_TIMER";
	case SI_MESGQ:
		return "SI_MESGQ";
	}
	if (info->si_signo == SIGCHLD && info->si_code == CLD_STOPPED)
		return "CLD_STOPPED";
	if (info->si_signo == SIGCHLD && info->si_code == CLD_CONTINUED)
		return "CLD_CONTINUED";
	snprintf(number, sizeof(number), "code %d", info->si_code);
	return number;
}

char *gap_info(const siginfo_t *info, char *buf)
{
	int n = snprintf(buf, 128, "SIG%s %s", gap_name(info->si_signo), code_name(info));

	if (info->si_code == SI_TIMER)
		snprintf(buf + n, (size_t)(128 - n), " value %d overrun %d", info->si_int, info->si_overrun);
	else if (info->si_code == SI_QUEUE)
		snprintf(buf + n, (size_t)(128 - n), " value %d%s", info->si_int,
			 info->si_pid == getpid() ? "" : " from pid 0 or a wrong one");
	else if (info->si_code <= 0)
		snprintf(buf + n, (size_t)(128 - n), "%s",
			 info->si_pid == getpid() ? " from itself" : info->si_pid ? " from another" : " from pid 0");
	else if (info->si_signo != SIGCHLD)
		snprintf(buf + n, (size_t)(128 - n), " address %#lx", (unsigned long)info->si_addr);
	return buf;
}

void gap_say_queue(uint64_t set)
{
	char first[128], text[128];
	siginfo_t info, last;
	int same = 0, any = 0;

	/* Entries of one number and code whose values count up are one run. */
	while (gap_take(set, &info)) {
		any = 1;
		if (same && info.si_code == SI_QUEUE && last.si_code == SI_QUEUE && info.si_signo == last.si_signo &&
		    info.si_pid == last.si_pid && info.si_int == last.si_int + 1) {
			same++;
		} else {
			if (same > 1)
				gap_say("%s and %d more that count up", first, same - 1);
			else if (same)
				gap_say("%s", first);
			same = 1;
			strcpy(first, gap_info(&info, text));
		}
		last = info;
	}
	if (same > 1)
		gap_say("%s and %d more that count up", first, same - 1);
	else if (same)
		gap_say("%s", first);
	if (!any)
		gap_say("nothing queued");
}

/* ---- /proc ------------------------------------------------------------------------------------------------- */

static int slurp(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, buf, size - 1);
	close(fd);
	if (n < 0)
		return -1;
	buf[n] = 0;
	return 0;
}

char gap_state(pid_t pid)
{
	char path[64], buf[1024];
	const char *at;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (slurp(path, buf, sizeof(buf)) || !(at = strrchr(buf, ')')))
		return 0;
	return at[2];
}

uint64_t gap_status(pid_t pid, pid_t tid, const char *field)
{
	char path[64], buf[4096], key[32];
	const char *at;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid ? tid : pid);
	snprintf(key, sizeof(key), "\n%s:\t", field);
	if (slurp(path, buf, sizeof(buf)) || !(at = strstr(buf, key)))
		return 0;
	return strtoull(at + strlen(key), NULL, 16);
}

void gap_wait_state(pid_t pid, char state)
{
	for (int i = 0; i < 5000; i++) {
		if (gap_state(pid) == state)
			return;
		gap_sleep(1);
	}
	gap_die("process is in state %c, not %c", gap_state(pid), state);
}

void gap_wait_inside(pid_t tid, long nr)
{
	char path[64], buf[256];

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
	for (int i = 0; i < 5000; i++) {
		/* "running", or the number and the arguments of the call in which it sleeps. */
		if (!slurp(path, buf, sizeof(buf)) && *buf >= '0' && *buf <= '9' && strtol(buf, NULL, 10) == nr)
			return;
		gap_sleep(1);
	}
	gap_die("the thread is not in syscall %ld but: %s", nr, buf);
}

static void count(int sig)
{
	(void)sig;
	__atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST);
}

void gap_count(int sig, int flags)
{
	struct sigaction action = { .sa_handler = count, .sa_flags = flags };

	if (sigaction(sig, &action, NULL))
		gap_die("sigaction: %m");
}

int gap_counted(void)
{
	return __atomic_load_n(&counted, __ATOMIC_SEQ_CST);
}
