// SPDX-License-Identifier: GPL-2.0-or-later
/* User and namespaces, seccomp, vfork, the stop of the whole process, and what criu refuses. */
#include "chance.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stddef.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define DUES 32

static const struct line *uid_line, *userns_line, *pidns_line, *stopped_line, *refuse_lines[2], *dues[DUES];
static int refuses, due_count, lock_fd = -1, odd_fd = -1;
int leader_exits;

/* ---- what criu refuses --------------------------------------------------------------------------------------- */

void do_refuse(struct line *line)
{
	if (!is(line, 1, "lock") && !is(line, 1, "fd"))
		bad_plan(line, "lock or fd");
	if (refuses == 2)
		bad_plan(line, "more than two of these");
	refuse_lines[refuses++] = line;
}

static void refuse_begin(void)
{
	char path[PATH_MAX];

	for (int i = 0; i < refuses; i++) {
		if (is(refuse_lines[i], 1, "lock")) {
			in_folder(path, "lock");
			lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
			if (lock_fd < 0 || flock(lock_fd, LOCK_EX | LOCK_NB))
				failed("locking %s: %m", path);
		} else {
			odd_fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
			if (odd_fd < 0)
				bad_plan(refuse_lines[i], "userfaultfd: %m");
		}
	}
}

void refuse_report(void)
{
	if (lock_fd >= 0)
		say("lock %s", flock(lock_fd, LOCK_EX | LOCK_NB) ? "lost" : "held");
	if (odd_fd >= 0)
		say("fd %s", fcntl(odd_fd, F_GETFD) < 0 ? "lost" : "held");
}

/* ---- who it is ----------------------------------------------------------------------------------------------- */

void do_uid(struct line *line)
{
	number(line, 1, 0, 65534);
	uid_line = line;
}

void do_userns(struct line *line)
{
	userns_line = line;
}

void do_pidns(struct line *line)
{
	pidns_line = line;
}

void do_leader_exits(struct line *line)
{
	(void)line;
	leader_exits = 1;
}

static void write_map(pid_t pid, const char *name)
{
	static const char map[] = "0 0 65536\n";
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, map, sizeof(map) - 1) != sizeof(map) - 1)
		_exit(1);
	close(fd);
}

/* The map is written by a process of the outer namespace. */
static void enter_userns(void)
{
	int ask[2], status;
	pid_t writer, process = getpid();
	char byte = 0;

	if (pipe(ask))
		failed("pipe: %m");
	writer = fork();
	if (writer < 0)
		failed("fork: %m");
	if (!writer) {
		if (read(ask[0], &byte, 1) != 1)
			_exit(1);
		write_map(process, "uid_map");
		write_map(process, "gid_map");
		_exit(0);
	}
	if (unshare(CLONE_NEWUSER))
		bad_plan(userns_line, "unshare: %m");
	if (write(ask[1], &byte, 1) != 1 || waitpid(writer, &status, 0) != writer || status)
		bad_plan(userns_line, "the map of the user namespace cannot be written");
	close(ask[0]);
	close(ask[1]);
}

static void become(const char *out)
{
	uid_t uid = (uid_t)number(uid_line, 1, 0, 65534);

	if (chown(out, uid, uid))
		failed("chown %s: %m", out);
	if (syscall(SYS_setresgid, uid, uid, uid) || syscall(SYS_setresuid, uid, uid, uid))
		bad_plan(uid_line, "setresuid: %m");
	/* As it was before: criu and the reader of the queues look at it. */
	if (prctl(PR_SET_DUMPABLE, 1))
		failed("PR_SET_DUMPABLE: %m");
}

/* Its /proc is there only while it is looked at: criu would meet a mount that goes with the namespace. */
static void proc_enter(void)
{
	char path[PATH_MAX];

	if (!pidns_line)
		return;
	in_folder(path, "proc");
	if ((mkdir(path, 0755) && errno != EEXIST) || mount("proc", path, "proc", 0, NULL))
		failed("mounting %s: %m", path);
	proc_root = strdup(path);
}

void proc_leave(void)
{
	if (pidns_line && umount2(proc_root, MNT_DETACH))
		failed("umount %s: %m", proc_root);
}

/* The process is pid 1 of it; who started it ends, and leaves its pid in the file `pid`. */
static void enter_pidns(void)
{
	char path[PATH_MAX], text[16];
	pid_t pid;
	int fd;

	if (userns_line || (uid_line && number(uid_line, 1, 0, 65534)))
		bad_plan(pidns_line, "its /proc cannot be mounted with userns or uid");
	if (unshare(CLONE_NEWPID))
		bad_plan(pidns_line, "unshare: %m");
	pid = fork();
	if (pid < 0)
		failed("fork: %m");
	if (pid) {
		in_folder(path, "pid");
		snprintf(text, sizeof(text), "%d", pid);
		fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fd < 0 || write(fd, text, strlen(text)) < 0)
			failed("writing %s: %m", path);
		_exit(0);
	}
	setsid();
	proc_enter();
}

void others_begin(void)
{
	if (pidns_line)
		enter_pidns();
	if (userns_line)
		enter_userns();
	if (plan_needs_ipc() && unshare(CLONE_NEWIPC))
		bad_plan(NULL, "an IPC namespace: %m");
	refuse_begin();
	if (uid_line)
		become(out_file());
}

void ids_report(void)
{
	say("ids %d %d %d %d", getuid(), getgid(), getsid(0), getpgrp());
}

/* ---- seccomp ------------------------------------------------------------------------------------------------- */

void do_seccomp(struct line *line)
{
	static const char *const names[] = { "allow", "errno", "kill", "trap" };
	int known = 0;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		known |= is(line, 2, names[i]);
	if (!known)
		bad_plan(line, "'%.20s' is none of allow, errno, kill, trap", line->word[2]);
	if (!is(line, 1, "all")) {
		thread_of(line, 1)->seccomp_line = line;
		return;
	}
	for (struct thread *t = threads; t < threads + THREADS; t++)
		t->seccomp_line = line;
}

static void install(const struct line *line, struct sock_filter *code, unsigned short length)
{
	struct sock_fprog program = { .len = length, .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
		bad_plan(line, "seccomp: %m");
}

#ifdef SYS_mmap2
#define NR_MMAP SYS_mmap2
#else
#define NR_MMAP SYS_mmap
#endif

void seccomp_enter(struct thread *t)
{
	const struct line *line = t->seccomp_line;
	unsigned act = SECCOMP_RET_ALLOW;
	int kill = is(line, 2, "kill");

	if (is(line, 2, "errno"))
		act = SECCOMP_RET_ERRNO | EXDEV;
	else if (is(line, 2, "trap"))
		act = SECCOMP_RET_TRAP;
	else if (kill)
		act = SECCOMP_RET_KILL_PROCESS;
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)(kill ? NR_MMAP : SYS_getpriority), 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)(kill ? SYS_sigaltstack : SYS_getpriority), 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, act),
	};
	install(line, code, sizeof(code) / sizeof(*code));
}

/* ---- vfork --------------------------------------------------------------------------------------------------- */

static int vforks_over;

void do_vfork(struct line *line)
{
	struct thread *t = thread_of(line, 1);

	if (t->wait || t->vfork_line)
		bad_plan(line, "the thread waits already");
	t->vfork_line = line;
}

void vfork_enter(struct thread *t)
{
	pid_t pid = vfork();

	if (pid < 0)
		bad_plan(t->vfork_line, "vfork: %m");
	if (!pid) {
		/* In the memory and on the stack of its parent. */
		while (!__atomic_load_n(&vforks_over, __ATOMIC_SEQ_CST))
			sleep_ns(5 * MS);
		_exit(7);
	}
	t->vfork_child = pid;
}

void vforks_end(void)
{
	int status = 0;

	__atomic_store_n(&vforks_over, 1, __ATOMIC_SEQ_CST);
	for (struct thread *t = next_thread(NULL); t; t = next_thread(t)) {
		struct patience left = patience(LATE_NS, 1000);

		if (!t->vfork_line)
			continue;
		while (!__atomic_load_n(&t->vfork_child, __ATOMIC_SEQ_CST) && is_patient(&left))
			sleep_ns(MS);
		t->lost = !t->vfork_child;
		if (t->lost)
			say("vfork %d hangs", t->number);
		else if (waitpid(t->vfork_child, &status, 0) != t->vfork_child)
			say("vfork %d errno=%d", t->number, errno);
		else
			say("vfork %d status=%x", t->number, (unsigned)status);
	}
}

/* ---- the leader's end ---------------------------------------------------------------------------------------- */

static void exit_in(struct thread *t, void *nothing)
{
	(void)nothing;
	work_done(t);
	syscall(SYS_exit, 0);
}

void leader_ends(void)
{
	if (threads[0].wait || threads[0].insides || threads[0].vfork_line)
		bad_plan(NULL, "the leader that ends (leader-exits) can be in no call and in no handler");
	if (!next_thread(&threads[0]))
		bad_plan(NULL, "leader-exits needs a thread other than the leader");
	run_in(&threads[0], exit_in, NULL);
	wait_state(getpid(), 'Z');
	threads[0].ended = 1;
}

/* ---- ready --------------------------------------------------------------------------------------------------- */

void do_stopped(struct line *line)
{
	if (signal_of(line, 1) != SIGSTOP)
		bad_plan(line, "only SIGSTOP stops a process whose group is orphaned, as that of a session's leader is");
	stopped_line = line;
}

void do_due(struct line *line)
{
	if (!is(line, 1, "shared"))
		thread_of(line, 1);
	if (signal_of(line, 2) == SIGKILL || signal_of(line, 2) == SIGSTOP || signal_of(line, 2) == SIGCONT)
		bad_plan(line, "this signal does not stay pending, or continues the process");
	if (due_count == DUES)
		bad_plan(line, "there are too many of these");
	dues[due_count++] = line;
}

uint64_t due_signals(int thread)
{
	uint64_t set = 0;

	for (int i = 0; i < due_count; i++)
		if (is(dues[i], 1, "shared") ? thread < 0 : thread == (int)number(dues[i], 1, 0, THREADS - 1))
			set |= BIT(signal_of(dues[i], 2));
	return set;
}

static void note_ready(void)
{
	common->ready = now(CLOCK_MONOTONIC);
	common->ready_boot = now(CLOCK_BOOTTIME);
	proc_leave();
	tell("ready\n");
}

static void note_go(void)
{
	common->go = now(CLOCK_MONOTONIC);
	common->go_boot = now(CLOCK_BOOTTIME);
	proc_enter();
}

static void wait_go(void)
{
	while (!has_go())
		sleep_ns(5 * MS);
}

static void wait_all_stopped(pid_t process)
{
	for (struct thread *t = next_thread(NULL); t; t = next_thread(t))
		if (!t->vfork_line) {
			int64_t end = now(CLOCK_MONOTONIC) + PATIENCE_NS;

			while (state_of(process, t->tid) != 'T') {
				if (now(CLOCK_MONOTONIC) > end)
					failed("thread %d does not stop", t->number);
				sleep_ns(MS / 2);
			}
		}
}

static void send_dues(pid_t process)
{
	for (int i = 0; i < due_count; i++) {
		int sig = signal_of(dues[i], 2);

		if (is(dues[i], 1, "shared"))
			kill(process, sig);
		else
			syscall(SYS_tgkill, process, threads[number(dues[i], 1, 0, THREADS - 1)].tid, sig);
	}
}

/* The helper: a child that stops its parent, and lets it go on. */
static void stop_and_go(void)
{
	pid_t process = getppid();

	kill(process, signal_of(stopped_line, 1));
	wait_all_stopped(process);
	send_dues(process);
	note_ready();
	wait_go();
	note_go();
	__atomic_store_n(&common->went_on, 1, __ATOMIC_SEQ_CST);
	kill(process, SIGCONT);
	for (;;)
		sleep_ns(3600 * SECOND);
}

/* In a process that runs only what its threads' calls block stays where it is until the process is ready. */
static void check_dues(void)
{
	for (int i = 0; i < due_count; i++)
		for (struct thread *t = next_thread(NULL); t; t = next_thread(t)) {
			int can_get = is(dues[i], 1, "shared") || t->number == (int)number(dues[i], 1, 0, THREADS - 1);
			uint64_t blocked = t->wait ? wait_mask(t) : t->mask;

			if (can_get && !(blocked & BIT(signal_of(dues[i], 2))))
				bad_plan(dues[i], "without 'stopped' each thread that can get it has to block it where it waits");
		}
}

void ready_and_wait(void)
{
	if (stopped_line) {
		helper(stop_and_go);
		while (!__atomic_load_n(&common->went_on, __ATOMIC_SEQ_CST))
			sleep_ns(5 * MS);
		return;
	}
	check_dues();
	send_dues(getpid());
	note_ready();
	wait_go();
	note_go();
}
