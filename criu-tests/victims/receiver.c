// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Writes down what it is sent: a line for each signal in the file `got`, with the thread that got it (0 the leader), and
 * the 48 bytes of its siginfo that the kernel keeps.
 *
 * Without an argument it blocks everything, and takes what is pending at the end: first each thread's own. With `handler`
 * the leader handles every signal, without SA_RESTART, and waits in pause(). With `seccomp` it is under a filter by which
 * calls that others make inside it kill it. There is a second thread, which blocks everything.
 */
#include "victim.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>

enum { KEPT = 48 };

static int handlers;
static int pauses;
static pid_t leader;

static void write_down(int thread, const siginfo_t *info)
{
	char path[PATH_MAX], line[3 * KEPT + 16];
	const unsigned char *bytes = (const unsigned char *)info;
	int len = sprintf(line, "%d ", thread);
	int fd;

	for (int i = 0; i < KEPT; i++)
		len += sprintf(line + len, "%02x", bytes[i]);
	line[len++] = '\n';
	victim_path(path, "got");
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (fd < 0 || write(fd, line, len) != len)
		victim_die("got: %m");
	close(fd);
}

static int told_to_go(void)
{
	char path[PATH_MAX];

	victim_path(path, "go");
	return access(path, F_OK) == 0;
}

static void handler(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	handlers++;
	/* What the other thread sends when it is time to go. */
	if (!(info->si_code == SI_TKILL && info->si_signo == SIGALRM))
		write_down(0, info);
}

/* SigPnd of this thread. */
static uint64_t own_pending(void)
{
	char line[256];
	unsigned long long bits = 0;
	FILE *status = fopen("/proc/thread-self/status", "re");

	if (!status)
		victim_die("status: %m");
	while (fgets(line, sizeof(line), status))
		if (sscanf(line, "SigPnd: %llx", &bits) == 1)
			break;
	fclose(status);
	return bits;
}

static void *second(void *unused)
{
	siginfo_t info;

	k_setmask(ALL_SIGNALS);
	victim_write_file("second", "");
	while (!told_to_go())
		k_sleep_ms(5);
	/* Its own queue comes first; what it finds then is the process's, and for the leader to take. */
	while (own_pending() && k_take(own_pending(), &info))
		write_down(1, &info);
	if (!strcmp(victim_arg(), "handler"))
		k_tgkill(leader, SIGALRM);
	return unused;
}

static void handle(void)
{
	for (int sig = 1; sig <= K_NSIG; sig++) {
		struct k_sigaction act = { .handler = (unsigned long)handler,
					   .flags = SA_SIGINFO | K_SA_RESTORER,
					   .restorer = victim_restorer(SA_SIGINFO),
					   .mask = ALL_SIGNALS };

		if (sig != SIGKILL && sig != SIGSTOP)
			k_sigaction(sig, &act, NULL);
	}
}

static void filter(void)
{
	static const int deadly[] = { SYS_sigaltstack, SYS_prctl, SYS_mmap, SYS_rt_tgsigqueueinfo };
	enum { N = sizeof(deadly) / sizeof(deadly[0]) };
	struct sock_filter code[N + 3];
	struct sock_fprog program = { .len = N + 3, .filter = code };

	code[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (int i = 0; i < N; i++)
		code[1 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, deadly[i], N - i, 0);
	code[N + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[N + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		victim_die("seccomp: %m");
}

int main(int argc, char **argv)
{
	int handling;
	char ended[32];
	pthread_t thread;
	siginfo_t info;

	victim_begin(argc, argv);
	handling = !strcmp(victim_arg(), "handler");
	leader = k_gettid();
	k_setmask(ALL_SIGNALS);
	if ((errno = pthread_create(&thread, NULL, second, NULL)))
		victim_die("pthread_create: %m");
	/* pthread_create() has put back a mask without the two signals that libc keeps for itself. */
	k_setmask(ALL_SIGNALS);
	for (char path[PATH_MAX]; victim_path(path, "second"), access(path, F_OK);)
		k_sleep_ms(1);
	if (!strcmp(victim_arg(), "seccomp"))
		filter();
	if (handling) {
		handle();
		k_setmask(0);
	}
	victim_write_file("ready", "");

	if (handling) {
		while (!told_to_go()) {
			expect_int(-1, pause(), "pause");
			expect_int(EINTR, errno, "errno of pause");
			pauses++;
		}
		/* Each signal ends the call that it comes into, unless several come at once; and none does so twice. */
		snprintf(ended, sizeof(ended), "%d of %d", pauses, handlers);
		victim_write_file("ended", ended);
	} else {
		while (!told_to_go())
			k_sleep_ms(5);
	}
	if ((errno = pthread_join(thread, NULL)))
		victim_die("pthread_join: %m");
	if (!handling)
		while (k_take(ALL_SIGNALS, &info))
			write_down(0, &info);
	return victim_end();
}
