// SPDX-License-Identifier: GPL-2.0-or-later
/* The calls in which threads wait at the checkpoint: how they are entered, how they end, what they say then. */
#include "chance.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <mqueue.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>

#ifdef SYS__newselect
/* Of a 32-bit program; what the number of select stands for there takes its arguments in a structure. */
#undef SYS_select
#define SYS_select SYS__newselect
#endif
#ifdef __aarch64__
/* There are the calls with a mask alone: without one they are made with NULL. */
#define SYS_pause SYS_ppoll
#define SYS_poll SYS_ppoll
#define SYS_select SYS_pselect6
#define SYS_epoll_wait SYS_epoll_pwait
#endif
#ifndef SYS_accept
#define SYS_accept SYS_accept4
#endif
#ifndef SYS_semtimedop
/* Of 32 bits: by ipc(2), or with times of 64 bits. */
#define SYS_semtimedop SYS_semtimedop_time64
#define SEM_TIME64
#endif
#define FILLER 4096

enum call {
	PAUSE,
	SIGSUSPEND,
	NANOSLEEP,
	CLOCK_NANOSLEEP,
	CLOCK_NANOSLEEP_ABS,
	POLL,
	PPOLL,
	SELECT,
	PSELECT,
	EPOLL_WAIT,
	EPOLL_PWAIT,
	EPOLL_PWAIT2,
	FUTEX,
	FUTEX_BITSET,
	FUTEX_PI,
	SIGTIMEDWAIT,
	READ,
	WRITE,
	RECV,
	ACCEPT,
	SEND,
	WAIT4,
	WAITID,
	MSGRCV,
	MSGSND,
	SEMOP,
	SEMTIMEDOP,
	MQ_RECEIVE,
	GETEVENTS,
	URING,
};

/* What TIMEOUT may be. */
enum { NO = 1, YES = 2, BOTH = 3 };
/* What the call is about. */
enum { NOTHING, PIPE, SOCKETS, LISTENER, WORD, CHILD, IPC };

static const struct kind {
	const char *name;
	long nr;
	int timeout, about;
	/* It can end by nothing but a handler. */
	int endless;
} kinds[] = {
	[PAUSE] = { "pause", SYS_pause, NO, NOTHING, 1 },
	[SIGSUSPEND] = { "sigsuspend", SYS_rt_sigsuspend, NO, NOTHING, 1 },
	[NANOSLEEP] = { "nanosleep", SYS_nanosleep, YES, NOTHING, 0 },
	[CLOCK_NANOSLEEP] = { "clock_nanosleep", SYS_clock_nanosleep, YES, NOTHING, 0 },
	[CLOCK_NANOSLEEP_ABS] = { "clock_nanosleep_abs", SYS_clock_nanosleep, YES, NOTHING, 0 },
	[POLL] = { "poll", SYS_poll, BOTH, PIPE, 0 },
	[PPOLL] = { "ppoll", SYS_ppoll, BOTH, PIPE, 0 },
	[SELECT] = { "select", SYS_select, BOTH, PIPE, 0 },
	[PSELECT] = { "pselect", SYS_pselect6, BOTH, PIPE, 0 },
	[EPOLL_WAIT] = { "epoll_wait", SYS_epoll_wait, BOTH, PIPE, 0 },
	[EPOLL_PWAIT] = { "epoll_pwait", SYS_epoll_pwait, BOTH, PIPE, 0 },
	[EPOLL_PWAIT2] = { "epoll_pwait2", SYS_epoll_pwait2, BOTH, PIPE, 0 },
	[FUTEX] = { "futex", SYS_futex, BOTH, WORD, 0 },
	[FUTEX_BITSET] = { "futex_bitset", SYS_futex, BOTH, WORD, 0 },
	[FUTEX_PI] = { "futex_lock_pi", SYS_futex, BOTH, WORD, 0 },
	[SIGTIMEDWAIT] = { "rt_sigtimedwait", SYS_rt_sigtimedwait, BOTH, NOTHING, 0 },
	[READ] = { "read", SYS_read, NO, PIPE, 0 },
	[WRITE] = { "write", SYS_write, NO, PIPE, 0 },
	[RECV] = { "recv", SYS_recvfrom, BOTH, SOCKETS, 0 },
	[ACCEPT] = { "accept", SYS_accept4, BOTH, LISTENER, 0 },
	[SEND] = { "send", SYS_sendto, BOTH, SOCKETS, 0 },
	[WAIT4] = { "wait4", SYS_wait4, NO, CHILD, 0 },
	[WAITID] = { "waitid", SYS_waitid, NO, CHILD, 0 },
	[MSGRCV] = { "msgrcv", SYS_msgrcv, NO, IPC, 0 },
	[MSGSND] = { "msgsnd", SYS_msgsnd, NO, IPC, 0 },
	[SEMOP] = { "semop", SYS_semtimedop, NO, IPC, 0 },
	[SEMTIMEDOP] = { "semtimedop", SYS_semtimedop, YES, IPC, 0 },
	[MQ_RECEIVE] = { "mq_receive", SYS_mq_timedreceive, BOTH, IPC, 0 },
	[GETEVENTS] = { "io_getevents", SYS_io_getevents, BOTH, NOTHING, 1 },
	[URING] = { "io_uring_enter", SYS_io_uring_enter, NO, NOTHING, 1 },
};
#define KINDS (int)(sizeof(kinds) / sizeof(*kinds))

struct wait {
	struct thread *thread;
	const struct line *line;
	enum call call;
	int64_t timeout;
	int end, rem, has_mask;
	uint64_t mask, set;
	/* Pipe or socket pair, the first is waited on; epoll; the queue, semaphore or context. */
	int fd[2], epoll;
	unsigned long object;
	int word;
	pid_t child;
	/* What came out. */
	int over;
	long result;
	int error;
	int64_t entered, returned, left;
	siginfo_t info;
};

/* ---- the plan ------------------------------------------------------------------------------------------------ */

static void options_of(struct wait *wait)
{
	const struct line *line = wait->line;
	const char *text;

	for (int i = 4; i < line->count; i++)
		if (strncmp(line->word[i], "end=", 4) && strncmp(line->word[i], "mask=", 5) &&
		    strncmp(line->word[i], "set=", 4) && !is(line, i, "rem"))
			bad_plan(line, "there is no option '%.20s'", line->word[i]);
		else if (is(line, i, "rem"))
			wait->rem = 1;
	if ((text = option(line, 4, "mask")) != NULL) {
		wait->has_mask = 1;
		wait->mask = hex_text(line, text);
	}
	text = option(line, 4, "set");
	wait->set = text ? hex_text(line, text) : BIT(SIGNALS);
	wait->set &= ~(BIT(SIGKILL) | BIT(SIGSTOP));
	if ((text = option(line, 4, "end")) != NULL) {
		wait->end = atoi(text);
		if (wait->end < 1 || wait->end > SIGNALS || wait->end == SIGKILL || wait->end == SIGSTOP)
			bad_plan(line, "end=%.10s is no signal that can have a handler", text);
	}
}

void do_wait(struct line *line)
{
	struct thread *t = thread_of(line, 1);
	struct wait *wait = calloc(1, sizeof(*wait));
	int i = 0;

	while (i < KINDS && !is(line, 2, kinds[i].name))
		i++;
	if (i == KINDS)
		bad_plan(line, "there is no call '%.20s'", line->word[2]);
	if (t->wait || t->vfork_line)
		bad_plan(line, "the thread waits already");
	if (!wait)
		failed("memory");
	wait->thread = t;
	wait->line = line;
	wait->call = (enum call)i;
	wait->timeout = is(line, 3, "none") ? -1 : number(line, 3, 100, 1000000000) * MS;
	options_of(wait);
	if (!(kinds[i].timeout & (wait->timeout < 0 ? NO : YES)))
		bad_plan(line, "this call has %s", wait->timeout < 0 ? "to have a timeout" : "no timeout");
	if (kinds[i].endless && wait->timeout < 0 && !wait->end)
		bad_plan(line, "nothing ends this call but end=SIG");
	if (wait->call == SIGTIMEDWAIT && !wait->set)
		bad_plan(line, "the set is empty");
	t->wait = wait;
}

int plan_needs_ipc(void)
{
	for (struct thread *t = threads; t < threads + THREADS; t++)
		if (t->wait && kinds[t->wait->call].about == IPC)
			return 1;
	return 0;
}

static int has_own_mask(const struct wait *wait)
{
	switch (wait->call) {
	case SIGSUSPEND:
	case PPOLL:
	case PSELECT:
	case EPOLL_PWAIT:
	case EPOLL_PWAIT2:
		return 1;
	default:
		return 0;
	}
}

static uint64_t mask_in_call(const struct wait *wait)
{
	return has_own_mask(wait) && wait->has_mask ? wait->mask : wait->thread->mask;
}

uint64_t wait_mask(const struct thread *t)
{
	return t->wait ? mask_in_call(t->wait) : ALL;
}

/* ---- prepared by the observer -------------------------------------------------------------------------------- */

static void idle_child(void)
{
	for (;;)
		sleep_ns(3600 * SECOND);
}

/* Full, so that nothing more can be written. */
static void fill(int fd)
{
	static const char filler[FILLER];

	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (write(fd, filler, sizeof(filler)) > 0 || write(fd, filler, 1) > 0)
		;
	fcntl(fd, F_SETFL, 0);
}

static void socket_timeout(struct wait *wait, int option_name)
{
	struct timeval t = { (time_t)(wait->timeout / SECOND), (suseconds_t)(wait->timeout % SECOND / 1000) };

	if (wait->timeout >= 0 && setsockopt(wait->fd[0], SOL_SOCKET, option_name, &t, sizeof(t)))
		failed("setsockopt: %m");
}

static void prepare_sockets(struct wait *wait)
{
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wait->fd))
		failed("socketpair: %m");
	if (wait->call == SEND)
		fill(wait->fd[0]);
	socket_timeout(wait, wait->call == SEND ? SO_SNDTIMEO : SO_RCVTIMEO);
}

static struct sockaddr_un listener_name(const struct wait *wait, socklen_t *size)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	char path[PATH_MAX], file[32];

	snprintf(file, sizeof(file), "listener.%d", wait->thread->number);
	in_folder(path, file);
	if (strlen(path) >= sizeof(name.sun_path))
		/* Relative: the folder is the one of the program. */
		strcpy(path, file);
	strcpy(name.sun_path, path);
	*size = sizeof(name);
	return name;
}

static void prepare_listener(struct wait *wait)
{
	socklen_t size;
	struct sockaddr_un name = listener_name(wait, &size);

	wait->fd[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	unlink(name.sun_path);
	if (wait->fd[0] < 0 || bind(wait->fd[0], (struct sockaddr *)&name, size) || listen(wait->fd[0], 4))
		failed("listening on %s: %m", name.sun_path);
	socket_timeout(wait, SO_RCVTIMEO);
}

static void prepare_pipe(struct wait *wait)
{
	struct epoll_event event = { .events = EPOLLIN };

	if (pipe2(wait->fd, O_CLOEXEC))
		failed("pipe: %m");
	if (wait->call == WRITE)
		fill(wait->fd[1]);
	if (wait->call != EPOLL_WAIT && wait->call != EPOLL_PWAIT && wait->call != EPOLL_PWAIT2)
		return;
	wait->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (wait->epoll < 0 || epoll_ctl(wait->epoll, EPOLL_CTL_ADD, wait->fd[0], &event))
		failed("epoll: %m");
}

struct message {
	long type;
	char text[FILLER];
};

static void prepare_ipc(struct wait *wait)
{
	struct mq_attr attributes = { .mq_maxmsg = 2, .mq_msgsize = 8 };
	static const struct message message = { .type = 1 };
	char name[32];
	int id;

	if (wait->call == MQ_RECEIVE) {
		snprintf(name, sizeof(name), "/chance.%d", wait->thread->number);
		id = mq_open(name, O_RDWR | O_CREAT, 0600, &attributes);
	} else if (wait->call == SEMOP || wait->call == SEMTIMEDOP) {
		id = semget(IPC_PRIVATE, 1, 0600);
	} else {
		id = msgget(IPC_PRIVATE, 0600);
		if (wait->call == MSGSND)
			while (!msgsnd(id, &message, FILLER, IPC_NOWAIT))
				;
	}
	if (id < 0)
		failed("System V object or message queue: %m");
	wait->object = (unsigned long)id;
}

static void prepare(struct wait *wait)
{
	aio_context_t context = 0;

	wait->left = -1;
	if (!wait->has_mask)
		wait->mask = wait->thread->mask;
	switch (kinds[wait->call].about) {
	case PIPE:
		prepare_pipe(wait);
		break;
	case SOCKETS:
		prepare_sockets(wait);
		break;
	case LISTENER:
		prepare_listener(wait);
		break;
	case CHILD:
		wait->child = helper(idle_child);
		break;
	case IPC:
		prepare_ipc(wait);
		break;
	case WORD:
		/* The observer holds the lock. */
		wait->word = wait->call == FUTEX_PI ? observer.tid : 0;
		break;
	}
	if (wait->call == GETEVENTS) {
		if (syscall(SYS_io_setup, 4, &context))
			failed("io_setup: %m");
		wait->object = (unsigned long)context;
	}
	if (wait->call == URING) {
		struct io_uring_params parameters = { 0 };

		wait->fd[0] = (int)syscall(SYS_io_uring_setup, 4, &parameters);
		if (wait->fd[0] < 0)
			bad_plan(wait->line, "io_uring_setup: %m");
	}
}

void waits_prepare(void)
{
	for (struct thread *t = next_thread(NULL); t; t = next_thread(t))
		if (t->wait)
			prepare(t->wait);
}

/* ---- in the thread ------------------------------------------------------------------------------------------- */

static struct timespec spec_of(int64_t ns)
{
	return (struct timespec){ (time_t)(ns / SECOND), (long)(ns % SECOND) };
}

long wait_syscall(const struct wait *wait)
{
	return kinds[wait->call].nr;
}

int has_timeout(const struct thread *t)
{
	return t->wait && t->wait->timeout >= 0;
}

int wait_is_over(const struct wait *wait)
{
	return __atomic_load_n(&wait->over, __ATOMIC_SEQ_CST);
}

void wait_is_wrong(const struct wait *wait)
{
	bad_plan(wait->line, "the call was over before the process was ready: result %ld, %s", wait->result,
		 wait->error ? strerror(wait->error) : "no error");
}

#ifdef __aarch64__
static long raw_pause(void)
{
	return syscall(SYS_ppoll, NULL, 0, NULL, NULL, 8);
}

static long raw_poll(struct pollfd *fd, int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000L };

	return syscall(SYS_ppoll, fd, 1, ms < 0 ? NULL : &t, NULL, 8);
}

static long raw_select(int n, fd_set *fds, struct timeval *tv)
{
	struct timespec t = { tv ? tv->tv_sec : 0, tv ? tv->tv_usec * 1000 : 0 };
	long result = syscall(SYS_pselect6, n, fds, NULL, NULL, tv ? &t : NULL, NULL);

	if (tv)
		*tv = (struct timeval){ t.tv_sec, t.tv_nsec / 1000 };
	return result;
}
#else
static long raw_pause(void)
{
	return syscall(SYS_pause);
}

static long raw_poll(struct pollfd *fd, int ms)
{
	return syscall(SYS_poll, fd, 1, ms);
}

static long raw_select(int n, fd_set *fds, struct timeval *tv)
{
	return syscall(SYS_select, n, fds, NULL, NULL, tv);
}
#endif

static long enter_poll(struct wait *wait, struct timespec *t, int ms)
{
	struct pollfd fd = { .fd = wait->fd[0], .events = POLLIN };
	struct epoll_event event;
	int64_t t64[2] = { wait->timeout / SECOND, wait->timeout % SECOND };

	switch (wait->call) {
	case POLL:
		return raw_poll(&fd, ms);
	case PPOLL:
		return syscall(SYS_ppoll, &fd, 1, t, &wait->mask, 8);
	case EPOLL_WAIT:
		return syscall(SYS_epoll_wait, wait->epoll, &event, 1, ms, NULL, 8);
	case EPOLL_PWAIT:
		return syscall(SYS_epoll_pwait, wait->epoll, &event, 1, ms, &wait->mask, 8);
	default:
		/* Times of 64 bits in a 32-bit program too. */
		return syscall(SYS_epoll_pwait2, wait->epoll, &event, 1, t ? t64 : NULL, &wait->mask, 8);
	}
}

static long enter_select(struct wait *wait, struct timespec *t)
{
	struct timeval tv = { t ? t->tv_sec : 0, t ? (suseconds_t)(t->tv_nsec / 1000) : 0 };
	struct {
		const void *mask;
		size_t size;
	} mask = { &wait->mask, 8 };
	long result;
	fd_set fds;

	FD_ZERO(&fds);
	FD_SET(wait->fd[0], &fds);
	if (wait->call == SELECT) {
		result = raw_select(wait->fd[0] + 1, &fds, t ? &tv : NULL);
		if (t)
			wait->left = tv.tv_sec * SECOND + tv.tv_usec * 1000ll;
		return result;
	}
	return syscall(SYS_pselect6, wait->fd[0] + 1, &fds, NULL, NULL, t, &mask);
}

static long enter_sleep(struct wait *wait, struct timespec *t)
{
	struct timespec rest = { 0, 0 }, at = spec_of(wait->entered + wait->timeout);
	struct timespec *rem = wait->rem ? &rest : NULL;
	long result;

	if (wait->call == NANOSLEEP)
		result = syscall(SYS_nanosleep, t, rem);
	else if (wait->call == CLOCK_NANOSLEEP)
		result = syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, t, rem);
	else
		return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
	/* nanosleep(2) says what is in it of a call that a handler has ended, and of no other. The kernel writes it at every stop
	 * (nanosleep_copyout), and what is there of one that has come to its end is what was left at the last. */
	if (rem && result < 0)
		wait->left = rest.tv_sec * SECOND + rest.tv_nsec;
	return result;
}

static long enter_futex(struct wait *wait, struct timespec *t)
{
	struct timespec at = spec_of(now(CLOCK_MONOTONIC) + wait->timeout), real = spec_of(now(CLOCK_REALTIME) + wait->timeout);

	if (wait->call == FUTEX)
		return syscall(SYS_futex, &wait->word, FUTEX_WAIT_PRIVATE, 0, t, NULL, 0);
	if (wait->call == FUTEX_BITSET)
		return syscall(SYS_futex, &wait->word, FUTEX_WAIT_BITSET_PRIVATE, 0, t ? &at : NULL, NULL,
			       FUTEX_BITSET_MATCH_ANY);
	return syscall(SYS_futex, &wait->word, FUTEX_LOCK_PI_PRIVATE, 0, t ? &real : NULL, NULL, 0);
}

static long enter_ipc(struct wait *wait, struct timespec *t)
{
	struct sembuf operation = { .sem_op = -1 };
	struct timespec at = spec_of(now(CLOCK_REALTIME) + wait->timeout);
	int64_t t64[2] = { wait->timeout / SECOND, wait->timeout % SECOND };
	static __thread struct message message;
	void *timeout = t;
	int id = (int)wait->object;

#ifdef SEM_TIME64
	timeout = t ? t64 : NULL;
#else
	(void)t64;
#endif
	message.type = 1;
	switch (wait->call) {
	case MSGRCV:
		return syscall(SYS_msgrcv, id, &message, FILLER, 0, 0);
	case MSGSND:
		return syscall(SYS_msgsnd, id, &message, FILLER, 0);
	case SEMOP:
	case SEMTIMEDOP:
		return syscall(SYS_semtimedop, id, &operation, 1, timeout);
	default:
		return syscall(SYS_mq_timedreceive, id, message.text, 8, NULL, t ? &at : NULL);
	}
}

static long enter_fd(struct wait *wait)
{
	char byte = 'x';

	switch (wait->call) {
	case READ:
		return syscall(SYS_read, wait->fd[0], &byte, 1);
	case WRITE:
		return syscall(SYS_write, wait->fd[1], &byte, 1);
	case RECV:
		return syscall(SYS_recvfrom, wait->fd[0], &byte, 1, 0, NULL, NULL);
	case SEND:
		return syscall(SYS_sendto, wait->fd[0], &byte, 1, 0, NULL, 0);
	default:
		return syscall(SYS_accept4, wait->fd[0], NULL, NULL, 0);
	}
}

static long enter(struct wait *wait, struct timespec *t)
{
	int ms = t ? (int)(wait->timeout / MS) : -1, status = 0;
	struct io_event event;
	siginfo_t info;

	switch (wait->call) {
	case PAUSE:
		return raw_pause();
	case SIGSUSPEND:
		return syscall(SYS_rt_sigsuspend, &wait->mask, 8);
	case NANOSLEEP:
	case CLOCK_NANOSLEEP:
	case CLOCK_NANOSLEEP_ABS:
		return enter_sleep(wait, t);
	case SELECT:
	case PSELECT:
		return enter_select(wait, t);
	case FUTEX:
	case FUTEX_BITSET:
	case FUTEX_PI:
		return enter_futex(wait, t);
	case SIGTIMEDWAIT:
		return syscall(SYS_rt_sigtimedwait, &wait->set, &wait->info, t, 8);
	case WAIT4:
		return syscall(SYS_wait4, wait->child, &status, 0, NULL);
	case WAITID:
		return syscall(SYS_waitid, P_PID, wait->child, &info, WEXITED, NULL);
	case URING:
		return syscall(SYS_io_uring_enter, wait->fd[0], 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	case GETEVENTS:
		return syscall(SYS_io_getevents, wait->object, 1, 1, &event, t);
	default:
		break;
	}
	if (kinds[wait->call].about == IPC)
		return enter_ipc(wait, t);
	if (wait->call >= READ && wait->call <= SEND)
		return enter_fd(wait);
	return enter_poll(wait, t, ms);
}

void wait_enter(struct wait *wait)
{
	struct timespec t = spec_of(wait->timeout);

	wait->entered = now(CLOCK_MONOTONIC);
	errno = 0;
	wait->result = enter(wait, wait->timeout < 0 ? NULL : &t);
	wait->error = wait->result < 0 ? errno : 0;
	wait->returned = now(CLOCK_MONOTONIC);
	__atomic_store_n(&wait->over, 1, __ATOMIC_SEQ_CST);
}

/* ---- ended --------------------------------------------------------------------------------------------------- */

static int lowest(uint64_t set)
{
	for (int sig = 1; sig <= SIGNALS; sig++)
		if (set & BIT(sig))
			return sig;
	return 0;
}

static void wake_by_signal(struct wait *wait)
{
	siginfo_t info;

	memset(&info, 0, sizeof(info));
	info.si_signo = lowest(wait->set);
	info.si_code = SI_QUEUE;
	info.si_pid = getpid();
	info.si_int = 77;
	syscall(SYS_rt_tgsigqueueinfo, getpid(), wait->thread->tid, info.si_signo, &info);
}

/* Takes out what fills it. */
static void empty(int fd)
{
	static char filler[FILLER];

	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (read(fd, filler, sizeof(filler)) > 0)
		;
	fcntl(fd, F_SETFL, 0);
}

static void wake_by_connection(struct wait *wait)
{
	socklen_t size;
	struct sockaddr_un name = listener_name(wait, &size);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (connect(fd, (struct sockaddr *)&name, size))
		say("wait %d connect errno=%d", wait->thread->number, errno);
}

static void wake_ipc(struct wait *wait)
{
	static struct message message = { .type = 1 };
	struct sembuf operation = { .sem_op = 1 };
	int id = (int)wait->object;

	if (wait->call == MSGRCV)
		msgsnd(id, &message, 4, IPC_NOWAIT);
	else if (wait->call == MSGSND)
		while (msgrcv(id, &message, FILLER, 0, IPC_NOWAIT) >= 0)
			;
	else if (wait->call == MQ_RECEIVE)
		mq_send(id, "x", 1, 0);
	else
		semop(id, &operation, 1);
}

/* What the call waits for. */
static void wake(struct wait *wait)
{
	switch (kinds[wait->call].about) {
	case PIPE:
		if (wait->call == WRITE)
			empty(wait->fd[0]);
		else
			(void)!write(wait->fd[1], "x", 1);
		break;
	case SOCKETS:
		if (wait->call == SEND)
			empty(wait->fd[1]);
		else
			(void)!write(wait->fd[1], "x", 1);
		break;
	case LISTENER:
		wake_by_connection(wait);
		break;
	case CHILD:
		kill(wait->child, SIGKILL);
		break;
	case IPC:
		wake_ipc(wait);
		break;
	case WORD:
		if (wait->call == FUTEX_PI)
			syscall(SYS_futex, &wait->word, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0);
		else
			syscall(SYS_futex, &wait->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
		break;
	default:
		if (wait->call == SIGTIMEDWAIT)
			wake_by_signal(wait);
	}
}

static int came_back(struct wait *wait, int64_t ns)
{
	struct patience left = patience(ns, 1000);

	while (!wait_is_over(wait) && is_patient(&left))
		sleep_ns(MS);
	return wait_is_over(wait);
}

/* A call that is restarted after the handler goes on as before. */
static void end_by_handler(struct wait *wait)
{
	struct thread *t = wait->thread;
	int handled = __atomic_load_n(&t->handled, __ATOMIC_SEQ_CST);
	struct patience left = patience(LATE_NS, 1000);
	int asleep = 0;

	syscall(SYS_tgkill, getpid(), t->tid, wait->end);
	while (__atomic_load_n(&t->handled, __ATOMIC_SEQ_CST) == handled && is_patient(&left))
		sleep_ns(MS / 2);
	if (__atomic_load_n(&t->handled, __ATOMIC_SEQ_CST) == handled)
		say("wait %d %s no-handler", t->number, kinds[wait->call].name);
	left = patience(SECOND, 200);
	while (!wait_is_over(wait) && asleep < 3 && is_patient(&left)) {
		asleep = sleeps_in(t->tid, wait_syscall(wait)) || sleeps_in(t->tid, SYS_restart_syscall) ? asleep + 1 : 0;
		sleep_ns(MS);
	}
}

static void say_wait(struct wait *wait)
{
	char left[40] = "", info[INFO_TEXT] = "", text[INFO_TEXT];

	if (wait->left >= 0)
		snprintf(left, sizeof(left), " ~left=%lld", (long long)wait->left);
	if (wait->call == SIGTIMEDWAIT && wait->result > 0)
		snprintf(info, sizeof(info), " siginfo=%s", info_text(&wait->info, text));
	say("wait %d %s ret=%s%ld errno=%d ~entered=%lld ~returned=%lld%s%s", wait->thread->number, kinds[wait->call].name,
	    wait->call == ACCEPT && wait->result >= 0 ? "fd" : "",
	    wait->call == ACCEPT && wait->result >= 0 ? 0 : wait->result, wait->error, (long long)wait->entered,
	    (long long)wait->returned, left, info);
}

/* A call that needs something that is left when all threads are done has it for itself. */
static void end_wait(struct wait *wait)
{
	/* From now at the latest: after a restore, the whole time may pass once more. */
	int64_t ends = now(CLOCK_MONOTONIC) + wait->timeout;

	if (wait->end && !wait_is_over(wait))
		end_by_handler(wait);
	if (wait->timeout < 0 && !wait_is_over(wait))
		wake(wait);
	if (!came_back(wait, (wait->timeout < 0 ? 0 : ends - now(CLOCK_MONOTONIC)) + LATE_NS)) {
		wait->thread->lost = 1;
		say("wait %d %s hangs", wait->thread->number, kinds[wait->call].name);
		return;
	}
	say_wait(wait);
}

void waits_report(void)
{
	for (struct thread *t = threads; t < threads + THREADS; t++)
		if (t->wait && !t->ended)
			end_wait(t->wait);
}
