// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A thread waits again and again, with a timeout of so many milliseconds, in a call that begins anew with the whole of
 * it after a checkpoint.
 *
 *   epoll:MS         epoll_wait
 *   sigtimedwait:MS  rt_sigtimedwait
 *   recv:MS          recv on a socket with SO_RCVTIMEO
 */
#include "victim.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>

#ifndef SYS_epoll_wait
/* aarch64 has the call with a mask alone: without one it is made with NULL. */
#define SYS_epoll_wait SYS_epoll_pwait
#endif

static const char *kind;
static int ms, pair[2], epoll;

/*
 * 0: nothing came. 1: by what came.
 *
 * EINTR is nothing here: the looks that a victim takes at its own threads give it to these calls, as every stop does.
 * That a checkpoint does not is what the cases 17 of gaps/calls.c are about.
 */
static long wait_once(void)
{
	uint64_t waited = SIGBIT(SIGRTMIN + 1);
	struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
	struct epoll_event got;
	char byte;
	long ret;

	if (*kind == 'e')
		ret = syscall(SYS_epoll_wait, epoll, &got, 1, ms, NULL, 8);
	else if (*kind == 's')
		ret = syscall(SYS_rt_sigtimedwait, &waited, NULL, &t, sizeof(waited));
	else
		ret = recv(pair[0], &byte, 1, 0);
	if (ret < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	return ret == SIGRTMIN + 1 ? 1 : ret;
}

static void thread(int index)
{
	long ret = 0;

	(void)index;
	k_setmask(SIGBIT(SIGRTMIN + 1));
	victim_settle(*kind == 'e' ? SYS_epoll_wait : *kind == 's' ? SYS_rt_sigtimedwait : SYS_recvfrom);
	while (!ret)
		ret = wait_once();
	expect_int(1, ret, "%s (errno %d)", kind, errno);
}

int main(int argc, char **argv)
{
	struct epoll_event wanted = { .events = EPOLLIN };
	struct timeval tv;
	siginfo_t info;

	victim_begin(argc, argv);
	kind = victim_arg();
	ms = strchr(kind, ':') ? atoi(strchr(kind, ':') + 1) : 0;
	tv = (struct timeval){ ms / 1000, ms % 1000 * 1000 };
	epoll = epoll_create1(0);
	if (!ms || epoll < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) ||
	    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) ||
	    epoll_ctl(epoll, EPOLL_CTL_ADD, pair[0], &wanted))
		victim_die("%s: %m", kind);
	k_setmask(SIGBIT(SIGRTMIN + 1));
	victim_thread(thread, 0);
	victim_checkpoint();
	info = info_value(SIGRTMIN + 1, 1);
	if (*kind == 's')
		k_queue_shared(&info);
	else
		expect_int(1, send(pair[1], "x", 1, 0), "send");
	return victim_end();
}
