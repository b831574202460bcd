// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A child under seccomp: `strict`, in which all but read, write, _exit and sigreturn end it by SIGKILL, or `filter`, one
 * that ends it by SIGSYS for anything but those and a few more. It answers each byte that it is sent.
 */
#include "victim.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

static int to_child[2], from_child[2];

static void confine(void)
{
#define ALLOW(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(SYS_read),
		ALLOW(SYS_write),
		ALLOW(SYS_exit),
		ALLOW(SYS_exit_group),
		ALLOW(SYS_rt_sigreturn),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

	if (!strcmp(victim_arg(), "strict")) {
		if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
			victim_die("PR_SET_SECCOMP: %m");
		return;
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		victim_die("PR_SET_SECCOMP: %m");
}

static void child(void)
{
	char byte;

	k_setmask(SIGBIT(SIGUSR1));
	confine();
	byte = 'r';
	while (write(from_child[1], &byte, 1) == 1 && read(to_child[0], &byte, 1) == 1 && byte != 'q')
		;
	syscall(SYS_exit, 7);
}

int main(int argc, char **argv)
{
	char byte, text[32], path[PATH_MAX];
	int status;
	pid_t pid;

	victim_begin(argc, argv);
	if (pipe(to_child) || pipe(from_child))
		victim_die("pipe: %m");
	pid = fork();
	if (pid < 0)
		victim_die("fork: %m");
	if (!pid)
		child();
	if (read(from_child[0], &byte, 1) != 1 || byte != 'r')
		victim_die("the child is not ready");
	snprintf(text, sizeof(text), "%d", pid);
	victim_write_file("child", text);
	victim_write_file("ready", "");
	victim_path(path, "go");
	while (access(path, F_OK))
		k_sleep_ms(2);
	byte = 'x';
	expect_int(1, write(to_child[1], &byte, 1), "asking the child");
	byte = 0;
	expect_int(1, read(from_child[0], &byte, 1), "the child's answer");
	expect_int('x', byte, "the child's answer");
	byte = 'q';
	expect_int(1, write(to_child[1], &byte, 1), "ending the child");
	expect_int(pid, waitpid(pid, &status, 0), "waiting for the child");
	expect_int(7 << 8, status, "the child's exit status");
	return victim_end();
}
