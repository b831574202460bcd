// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The leader waits in the call that the argument names, and one thread in each of the others. Which of them end before the
 * test lets the program go on is written into the file `calls`, a line for each thread: TID CALL kept|ended. What is kept has
 * to end by its own event then.
 */
#include "victim.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/time.h>

#define SECONDS 600
/* Without a limit of its own, a thread that never comes back would be waited for until the test gives up. */
#define LOOKS 20000

/* glibc uses the 64-bit time calls in some 32-bit programs; this test is for programs of 64 bits. */
#ifndef SYS_semtimedop
#define SYS_semtimedop SYS_ipc
#endif
#ifndef SYS_recvfrom
#define SYS_recvfrom SYS_socketcall
#endif
#ifdef __aarch64__
/* There are these calls with a mask alone: without one they are made with NULL. */
#define SYS_poll SYS_ppoll
#define SYS_epoll_wait SYS_epoll_pwait
#endif

static void handler(int sig);
static long in_poll(int index);
static long in_nanosleep(int index);
static long in_clock_nanosleep(int index);
static long in_futex(int index);
static long in_epoll_wait(int index);
static long in_sigtimedwait(int index);
static long in_semtimedop(int index);
static long in_recv(int index);

static const struct kind {
	const char *name;
	long number;
	long (*wait)(int index);
	/* Its event is a signal with a handler, and what it ends with EINTR. */
	int by_handler;
	long result;
} kinds[] = {
	{ "poll", SYS_poll, in_poll, 0, 1 },
	{ "nanosleep", SYS_nanosleep, in_nanosleep, 1, -1 },
	{ "clock_nanosleep", SYS_clock_nanosleep, in_clock_nanosleep, 1, -1 },
	{ "futex", SYS_futex, in_futex, 0, 0 },
	{ "epoll_wait", SYS_epoll_wait, in_epoll_wait, 0, 1 },
	{ "rt_sigtimedwait", SYS_rt_sigtimedwait, in_sigtimedwait, 0, SIGUSR2 },
	{ "semtimedop", SYS_semtimedop, in_semtimedop, 0, 0 },
	{ "recvfrom", SYS_recvfrom, in_recv, 0, 1 },
};
#define KINDS ((int)(sizeof(kinds) / sizeof(*kinds)))

static struct {
	pid_t tid;
	int pair[2], done;
	long result;
	int err;
} waits[KINDS];
static int word, semaphores, epoll, sent;

static void handler(int sig)
{
	(void)sig;
}

static long in_poll(int index)
{
	struct pollfd fd = { .fd = waits[index].pair[0], .events = POLLIN };
	struct timespec time = { .tv_sec = SECONDS };

	return SYS_poll == SYS_ppoll ? syscall(SYS_ppoll, &fd, 1, &time, NULL, 8) :
				       syscall(SYS_poll, &fd, 1, SECONDS * 1000);
}

static long in_nanosleep(int index)
{
	struct timespec time = { .tv_sec = SECONDS };

	(void)index;
	return syscall(SYS_nanosleep, &time, NULL);
}

static long in_clock_nanosleep(int index)
{
	struct timespec time = { .tv_sec = SECONDS }, left;

	(void)index;
	return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &time, &left);
}

static long in_futex(int index)
{
	struct timespec time = { .tv_sec = SECONDS };

	(void)index;
	return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &time, NULL, 0);
}

static long in_epoll_wait(int index)
{
	struct epoll_event got;

	(void)index;
	return syscall(SYS_epoll_wait, epoll, &got, 1, SECONDS * 1000, NULL, 8);
}

static long in_sigtimedwait(int index)
{
	struct timespec time = { .tv_sec = SECONDS };
	uint64_t wanted = SIGBIT(SIGUSR2);

	(void)index;
	return syscall(SYS_rt_sigtimedwait, &wanted, NULL, &time, sizeof(wanted));
}

static long in_semtimedop(int index)
{
	struct timespec time = { .tv_sec = SECONDS };
	struct sembuf take = { .sem_op = -1 };

	(void)index;
	return syscall(SYS_semtimedop, semaphores, &take, 1, &time);
}

static long in_recv(int index)
{
	char byte;

	return syscall(SYS_recvfrom, waits[index].pair[0], &byte, 1, 0, NULL, NULL);
}

static void wait_in(int index)
{
	long result;

	__atomic_store_n(&waits[index].tid, k_gettid(), __ATOMIC_SEQ_CST);
	result = kinds[index].wait(index);
	waits[index].err = result < 0 ? errno : 0;
	waits[index].result = result;
	__atomic_store_n(&waits[index].done, 1, __ATOMIC_SEQ_CST);
}

static void thread(int index)
{
	victim_settle(kinds[index].number);
	wait_in(index);
}

/* Is the thread in its call? After a stop that is restart_syscall(2), of which the kernel knows which call it is. */
static int is_waiting(int index)
{
	char path[64], line[256] = "";
	FILE *file;
	long number;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", waits[index].tid);
	file = fopen(path, "r");
	if (!file || !fgets(line, sizeof(line), file))
		victim_die("%s: %m", path);
	fclose(file);
	return sscanf(line, "%ld ", &number) == 1 && (number == kinds[index].number || number == SYS_restart_syscall);
}

static int has_ended(int index)
{
	return __atomic_load_n(&waits[index].done, __ATOMIC_SEQ_CST);
}

/* Until each thread waits or has ended its wait. */
static void until_settled(void)
{
	for (int index = 0; index < KINDS; index++)
		for (int looks = 0; !has_ended(index) && !is_waiting(index); looks++) {
			if (looks == LOOKS)
				victim_die("the thread in %s neither waits nor ends", kinds[index].name);
			k_sleep_ms(5);
		}
}

static void send_event(int index)
{
	const char *name = kinds[index].name;

	if (kinds[index].by_handler)
		k_tgkill(waits[index].tid, SIGUSR1);
	else if (kinds[index].wait == in_sigtimedwait)
		k_tgkill(waits[index].tid, SIGUSR2);
	else if (kinds[index].wait == in_futex)
		expect_int(1, syscall(SYS_futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0), "threads woken in %s", name);
	else if (kinds[index].wait == in_semtimedop)
		expect_int(0, semctl(semaphores, 0, SETVAL, 1), "SETVAL");
	else
		expect_int(1, write(waits[index].pair[1], "", 1), "write for %s", name);
}

static void release(int index)
{
	char path[PATH_MAX], text[1024] = "";

	(void)index;
	victim_settle(-1);
	for (int i = 0; i < KINDS; i++)
		while (!__atomic_load_n(&waits[i].tid, __ATOMIC_SEQ_CST) || !is_waiting(i))
			k_sleep_ms(1);
	victim_write_file("ready", "");
	victim_path(path, "go");
	while (access(path, F_OK))
		k_sleep_ms(5);
	until_settled();
	for (int i = 0; i < KINDS; i++) {
		size_t length = strlen(text);

		snprintf(text + length, sizeof(text) - length, "%d %s %s\n", waits[i].tid, kinds[i].name,
			 has_ended(i) ? "ended" : "kept");
	}
	victim_write_file("calls", text);
	for (int i = 0; i < KINDS; i++) {
		if (has_ended(i)) {
			expect_int(-1, waits[i].result, "%s", kinds[i].name);
			expect_int(EINTR, waits[i].err, "%s, errno", kinds[i].name);
			waits[i].tid = 0;
			continue;
		}
		send_event(i);
	}
	__atomic_store_n(&sent, 1, __ATOMIC_SEQ_CST);
}

int main(int argc, char **argv)
{
	struct k_sigaction action = { .handler = (unsigned long)handler, .flags = K_SA_RESTORER };
	struct epoll_event wanted = { .events = EPOLLIN };
	struct timeval time = { .tv_sec = SECONDS };
	int mine = -1;

	victim_begin(argc, argv);
	for (int i = 0; i < KINDS; i++)
		if (!strcmp(victim_arg(), kinds[i].name))
			mine = i;
	if (mine < 0)
		victim_die("no call %s", victim_arg());
	action.restorer = victim_restorer(action.flags);
	k_sigaction(SIGUSR1, &action, NULL);
	k_setmask(SIGBIT(SIGUSR2));
	for (int i = 0; i < KINDS; i++)
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, waits[i].pair) ||
		    setsockopt(waits[i].pair[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)))
			victim_die("socketpair: %m");
	epoll = epoll_create1(0);
	semaphores = semget(IPC_PRIVATE, 1, 0600);
	if (epoll < 0 || semaphores < 0)
		victim_die("epoll_create1, semget: %m");
	for (int i = 0; i < KINDS; i++)
		if (kinds[i].wait == in_epoll_wait && epoll_ctl(epoll, EPOLL_CTL_ADD, waits[i].pair[0], &wanted))
			victim_die("epoll_ctl: %m");
	for (int i = 0; i < KINDS; i++)
		if (i != mine)
			victim_thread(thread, i);
	victim_thread(release, 0);
	wait_in(mine);
	while (!__atomic_load_n(&sent, __ATOMIC_SEQ_CST))
		k_sleep_ms(5);
	for (int i = 0; i < KINDS; i++) {
		while (!has_ended(i))
			k_sleep_ms(5);
		if (!waits[i].tid)
			continue;
		expect_int(kinds[i].result, waits[i].result, "%s (errno %d)", kinds[i].name, waits[i].err);
		if (kinds[i].by_handler)
			expect_int(EINTR, waits[i].err, "%s, errno", kinds[i].name);
	}
	semctl(semaphores, 0, IPC_RMID);
	return victim_end();
}
