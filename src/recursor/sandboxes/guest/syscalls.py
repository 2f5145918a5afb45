"""The system calls of Linux: their numbers on two architectures, and what code in a REPL may do with each.

A call that is known to be dangerous is denied, which reads as "not allowed"; any that is in no list, also
one that a later kernel invents, does not exist, for which C libraries have fallbacks. See `seccomp` for
calls that depend on their arguments.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """Where the numbers of system calls differ."""

    audit: int
    """The AUDIT_ARCH_* constant that the kernel gives to filters."""
    seccomp: int
    """The number of seccomp(2)."""
    first_foreign: int
    """From this number on calls are of another convention (x32), or of none."""
    numbers: dict[str, int]


def _table(text: str) -> dict[str, int]:
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def _names(text: str) -> list[str]:
    return text.split()


X86_64 = Architecture(
    audit=0xC000003E,
    seccomp=317,
    first_foreign=0x40000000,
    numbers=_table("""
    read 0 write 1 open 2 close 3 stat 4 fstat 5 lstat 6 poll 7 lseek 8 mmap 9 mprotect 10 munmap 11 brk 12
    rt_sigaction 13 rt_sigprocmask 14 rt_sigreturn 15 ioctl 16 pread64 17 pwrite64 18 readv 19 writev 20
    access 21 pipe 22 select 23 sched_yield 24 mremap 25 msync 26 mincore 27 madvise 28 shmget 29 shmat 30
    shmctl 31 dup 32 dup2 33 pause 34 nanosleep 35 getitimer 36 alarm 37 setitimer 38 getpid 39 sendfile 40
    socket 41 connect 42 accept 43 sendto 44 recvfrom 45 sendmsg 46 recvmsg 47 shutdown 48 bind 49 listen 50
    getsockname 51 getpeername 52 socketpair 53 setsockopt 54 getsockopt 55 clone 56 fork 57 vfork 58
    execve 59 exit 60 wait4 61 kill 62 uname 63 semget 64 msgget 68 fcntl 72 flock 73 fsync 74 fdatasync 75
    truncate 76 ftruncate 77 getdents 78 getcwd 79 chdir 80 fchdir 81 rename 82 mkdir 83 rmdir 84 creat 85
    link 86 unlink 87 symlink 88 readlink 89 chmod 90 fchmod 91 chown 92 fchown 93 lchown 94 umask 95
    gettimeofday 96 getrlimit 97 getrusage 98 sysinfo 99 times 100 ptrace 101 getuid 102 syslog 103 getgid 104
    setuid 105 setgid 106 geteuid 107 getegid 108 setpgid 109 getppid 110 getpgrp 111 setsid 112 setreuid 113
    setregid 114 getgroups 115 setgroups 116 setresuid 117 getresuid 118 setresgid 119 getresgid 120
    getpgid 121 setfsuid 122 setfsgid 123 getsid 124 capget 125 capset 126 rt_sigpending 127
    rt_sigtimedwait 128 rt_sigsuspend 130 sigaltstack 131 utime 132 mknod 133 personality 135 statfs 137
    fstatfs 138 getpriority 140 setpriority 141 sched_getparam 143 sched_getscheduler 145
    sched_get_priority_max 146 sched_get_priority_min 147 mlock 149 munlock 150 pivot_root 155 prctl 157
    arch_prctl 158 setrlimit 160 chroot 161 acct 163 mount 165 umount2 166 swapon 167 reboot 169
    sethostname 170 setdomainname 171 init_module 175 delete_module 176 gettid 186 setxattr 188 lsetxattr 189
    fsetxattr 190 getxattr 191 lgetxattr 192 fgetxattr 193 listxattr 194 llistxattr 195 flistxattr 196
    removexattr 197 lremovexattr 198 fremovexattr 199 tkill 200 time 201 futex 202
    sched_setaffinity 203 sched_getaffinity 204 epoll_create 213
    getdents64 217 set_tid_address 218 restart_syscall 219 fadvise64 221 timer_create 222 timer_settime 223
    timer_gettime 224 timer_getoverrun 225 timer_delete 226 clock_settime 227 clock_gettime 228
    clock_getres 229 clock_nanosleep 230 exit_group 231 epoll_wait 232 epoll_ctl 233 tgkill 234 utimes 235
    mq_open 240 kexec_load 246 waitid 247 add_key 248 request_key 249 keyctl 250 openat 257 mkdirat 258
    mknodat 259 fchownat 260 futimesat 261 newfstatat 262 unlinkat 263 renameat 264 linkat 265 symlinkat 266
    readlinkat 267 fchmodat 268 faccessat 269 pselect6 270 ppoll 271 unshare 272 set_robust_list 273
    get_robust_list 274 splice 275 tee 276 vmsplice 278 utimensat 280 epoll_pwait 281 signalfd 282
    timerfd_create 283 eventfd 284 fallocate 285 timerfd_settime 286 timerfd_gettime 287 accept4 288
    signalfd4 289 eventfd2 290 epoll_create1 291 dup3 292 pipe2 293 preadv 295 pwritev 296
    perf_event_open 298 fanotify_init 300 prlimit64 302 name_to_handle_at 303 open_by_handle_at 304 setns 308
    getcpu 309 process_vm_readv 310 process_vm_writev 311 kcmp 312 finit_module 313 renameat2 316
    seccomp 317 getrandom 318 memfd_create 319 bpf 321 execveat 322 userfaultfd 323 membarrier 324
    copy_file_range 326 preadv2 327 pwritev2 328 statx 332 rseq 334 pidfd_send_signal 424 io_uring_setup 425
    io_uring_enter 426 io_uring_register 427 open_tree 428 move_mount 429 fsopen 430 pidfd_open 434 clone3 435
    close_range 436 pidfd_getfd 438 faccessat2 439 process_madvise 440 epoll_pwait2 441 mount_setattr 442
    landlock_create_ruleset 444 landlock_add_rule 445 landlock_restrict_self 446 memfd_secret 447
    """),
)

AARCH64 = Architecture(
    audit=0xC00000B7,
    seccomp=277,
    first_foreign=0x40000000,
    numbers=_table("""
    setxattr 5 lsetxattr 6 fsetxattr 7 getxattr 8 lgetxattr 9 fgetxattr 10 listxattr 11 llistxattr 12
    flistxattr 13 removexattr 14 lremovexattr 15 fremovexattr 16 getcwd 17 eventfd2 19 epoll_create1 20
    epoll_ctl 21 epoll_pwait 22 dup 23 dup3 24 fcntl 25 ioctl 29 flock 32 mknodat 33 mkdirat 34 unlinkat
    35 symlinkat 36 linkat 37 renameat 38 umount2 39 mount 40 pivot_root 41 statfs 43 fstatfs 44
    truncate 45 ftruncate 46 fallocate 47 faccessat 48 chdir 49 fchdir 50 chroot 51 fchmod 52 fchmodat
    53 fchownat 54 fchown 55 openat 56 close 57 pipe2 59 getdents64 61 lseek 62 read 63 write 64 readv
    65 writev 66 pread64 67 pwrite64 68 preadv 69 pwritev 70 sendfile 71 pselect6 72 ppoll 73 signalfd4
    74 vmsplice 75 splice 76 tee 77 readlinkat 78 newfstatat 79 fstat 80 fsync 82 fdatasync 83
    timerfd_create 85 timerfd_settime 86 timerfd_gettime 87 utimensat 88 acct 89 capget 90 capset 91
    personality 92 exit 93 exit_group 94 waitid 95 set_tid_address 96 unshare 97 futex 98
    set_robust_list 99 get_robust_list 100 nanosleep 101 getitimer 102 setitimer 103 kexec_load 104
    init_module 105 delete_module 106 timer_create 107 timer_gettime 108 timer_getoverrun 109
    timer_settime 110 timer_delete 111 clock_settime 112 clock_gettime 113 clock_getres 114
    clock_nanosleep 115 syslog 116 ptrace 117 sched_getscheduler 120 sched_getparam 121
    sched_setaffinity 122 sched_getaffinity 123 sched_yield 124 sched_get_priority_max 125
    sched_get_priority_min 126 restart_syscall 128 kill 129 tkill 130 tgkill 131 sigaltstack 132
    rt_sigsuspend 133 rt_sigaction 134 rt_sigprocmask 135 rt_sigpending 136 rt_sigtimedwait 137
    rt_sigreturn 139 setpriority 140 getpriority 141 reboot 142 setregid 143 setgid 144 setreuid 145
    setuid 146 setresuid 147 getresuid 148 setresgid 149 getresgid 150 setfsuid 151 setfsgid 152 times
    153 setpgid 154 getpgid 155 getsid 156 setsid 157 getgroups 158 setgroups 159 uname 160 sethostname
    161 setdomainname 162 getrlimit 163 setrlimit 164 getrusage 165 umask 166 prctl 167 getcpu 168
    gettimeofday 169 getpid 172 getppid 173 getuid 174 geteuid 175 getgid 176 getegid 177 gettid 178
    sysinfo 179 mq_open 180 msgget 186 semget 190 shmget 194 shmctl 195 shmat 196 socket 198 socketpair
    199 bind 200 listen 201 accept 202 connect 203 getsockname 204 getpeername 205 sendto 206 recvfrom
    207 setsockopt 208 getsockopt 209 shutdown 210 sendmsg 211 recvmsg 212 brk 214 munmap 215 mremap 216
    add_key 217 request_key 218 keyctl 219 clone 220 execve 221 mmap 222 fadvise64 223 swapon 224
    mprotect 226 msync 227 mlock 228 munlock 229 mincore 232 madvise 233 perf_event_open 241 accept4 242
    wait4 260 prlimit64 261 fanotify_init 262 name_to_handle_at 264 open_by_handle_at 265 setns 268
    process_vm_readv 270 process_vm_writev 271 kcmp 272 finit_module 273 renameat2 276 seccomp 277
    getrandom 278 memfd_create 279 bpf 280 execveat 281 userfaultfd 282 membarrier 283 copy_file_range
    285 preadv2 286 pwritev2 287 statx 291 rseq 293 pidfd_send_signal 424 io_uring_setup 425
    io_uring_enter 426 io_uring_register 427 open_tree 428 move_mount 429 fsopen 430 pidfd_open 434
    clone3 435 close_range 436 pidfd_getfd 438 faccessat2 439 process_madvise 440 epoll_pwait2 441
    mount_setattr 442 landlock_create_ruleset 444 landlock_add_rule 445 landlock_restrict_self 446
    memfd_secret 447
    """),
)
"""The numbers of the kernel's asm-generic/unistd.h. Compared with those; never run by us."""

ARCHITECTURES = {"x86_64": X86_64, "aarch64": AARCH64}
"""By the name that uname(2) gives. A name in the lists below that a table lacks has no such call there."""

ALLOWED = _names("""
    futex read write recvfrom poll mmap munmap clock_gettime brk madvise
    close lseek mprotect mremap msync mincore mlock munlock
    pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2
    fstat stat lstat newfstatat statx access faccessat faccessat2 getcwd chdir fchdir
    getdents getdents64 statfs fstatfs
    open openat creat mkdir mkdirat rmdir rename renameat renameat2
    symlink symlinkat link linkat unlink unlinkat
    readlink readlinkat truncate ftruncate fallocate fsync fdatasync umask copy_file_range sendfile fadvise64
    chmod fchmodat utime utimes dup dup2 dup3 pipe pipe2 close_range
    select pselect6 ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
    eventfd eventfd2 timerfd_create timerfd_settime timerfd_gettime signalfd signalfd4
    recvmsg shutdown getsockname getpeername
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack
    kill tkill tgkill pause alarm getitimer setitimer
    timer_create timer_settime timer_gettime timer_getoverrun timer_delete
    nanosleep clock_nanosleep clock_getres gettimeofday time times getcpu
    sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler getpriority
    sched_get_priority_max sched_get_priority_min
    getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid getsid
    uname sysinfo getrlimit getrusage getrandom
    set_robust_list get_robust_list rseq set_tid_address membarrier arch_prctl restart_syscall
    wait4 waitid exit exit_group
""")

DENIED = _names("""
    socket connect accept accept4 bind listen sendmsg setpgid setsid execve execveat fork vfork ptrace
    process_vm_readv process_vm_writev kcmp pidfd_open pidfd_getfd pidfd_send_signal process_madvise
    memfd_create memfd_secret
    unshare setns mount umount2 pivot_root chroot open_tree move_mount fsopen mount_setattr
    setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset personality
    keyctl add_key request_key io_uring_setup io_uring_enter io_uring_register
    bpf perf_event_open userfaultfd seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
    shmget shmat shmctl semget msgget mq_open name_to_handle_at open_by_handle_at fanotify_init
    splice tee vmsplice fchmod chown fchown lchown fchownat futimesat mknod mknodat flock
    setpriority setrlimit sethostname setdomainname clock_settime acct swapon reboot syslog
    init_module finit_module delete_module kexec_load
""")

UNSUPPORTED = _names("""
    setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
    removexattr lremovexattr fremovexattr
""")
"""Get ENOTSUP, which programs that copy files take for a file system without attributes."""
