//! Which calls the usual profile allows.

use oci_spec::runtime::LinuxSeccompOperator as Operator;

use crate::seccomp::condition::Condition;

/// Calls that are allowed where one of the capabilities is there.
pub(super) struct Group {
    /// Bit n is capability n.
    pub(super) capabilities: u64,
    /// Separated by spaces.
    pub(super) names: &'static str,
}

/// Calls that are allowed where none of the capabilities is there and a condition holds.
pub(super) struct Conditional {
    pub(super) name: &'static str,
    pub(super) unless: u64,
    pub(super) condition: Condition,
}

/// Without capabilities too.
pub(super) const ALWAYS: u64 = u64::MAX;

const fn capability(number: u32) -> u64 {
    1 << number
}

// linux/capability.h.
const CAP_DAC_READ_SEARCH: u64 = capability(2);
const CAP_SYS_MODULE: u64 = capability(16);
const CAP_SYS_RAWIO: u64 = capability(17);
const CAP_SYS_CHROOT: u64 = capability(18);
const CAP_SYS_PTRACE: u64 = capability(19);
const CAP_SYS_PACCT: u64 = capability(20);
pub(super) const CAP_SYS_ADMIN: u64 = capability(21);
const CAP_SYS_BOOT: u64 = capability(22);
const CAP_SYS_NICE: u64 = capability(23);
const CAP_SYS_TIME: u64 = capability(25);
const CAP_SYS_TTY_CONFIG: u64 = capability(26);
const CAP_SYSLOG: u64 = capability(34);
const CAP_PERFMON: u64 = capability(38);
const CAP_BPF: u64 = capability(39);

pub(super) const GROUPS: [Group; 17] = [
    Group {
        capabilities: ALWAYS,
        names: "_llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget \
            capset chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres \
            clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
            clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 \
            dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 \
            epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group \
            faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod \
            fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr \
            flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs \
            fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait \
            futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd \
            getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups \
            getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority \
            getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid \
            getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat \
            inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy \
            io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl \
            ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset \
            landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount \
            listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 \
            madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir \
            mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr \
            mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
            mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync \
            munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat \
            openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free \
            pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 \
            process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 \
            ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv \
            recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr \
            removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction \
            rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
            rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max \
            sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
            sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
            sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield \
            seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile \
            sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address \
            setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 \
            setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid \
            setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 \
            setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd \
            signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs \
            statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee \
            tgkill time timer_create timer_delete timer_getoverrun timer_gettime \
            timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
            timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate \
            truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat \
            utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev",
    },
    // Names of one machine's kind only.
    Group {
        capabilities: if cfg!(target_arch = "x86_64") { ALWAYS } else { 0 },
        names: "arch_prctl modify_ldt",
    },
    Group {
        capabilities: if cfg!(target_arch = "aarch64") { ALWAYS } else { 0 },
        names: "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls",
    },
    Group { capabilities: CAP_DAC_READ_SEARCH, names: "open_by_handle_at" },
    Group {
        capabilities: CAP_SYS_ADMIN,
        names: "clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
            lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree \
            quotactl quotactl_fd setdomainname sethostname setns umount umount2 unshare",
    },
    Group { capabilities: CAP_SYS_ADMIN | CAP_SYSLOG, names: "syslog" },
    Group { capabilities: CAP_SYS_ADMIN | CAP_BPF, names: "bpf" },
    Group { capabilities: CAP_SYS_ADMIN | CAP_PERFMON, names: "perf_event_open" },
    Group { capabilities: CAP_SYS_BOOT, names: "reboot" },
    Group { capabilities: CAP_SYS_CHROOT, names: "chroot" },
    Group { capabilities: CAP_SYS_MODULE, names: "delete_module finit_module init_module" },
    Group { capabilities: CAP_SYS_PACCT, names: "acct" },
    Group { capabilities: CAP_SYS_PTRACE, names: "kcmp pidfd_getfd process_madvise" },
    Group { capabilities: CAP_SYS_RAWIO, names: "ioperm iopl" },
    Group { capabilities: CAP_SYS_TIME, names: "clock_settime clock_settime64 settimeofday stime" },
    Group { capabilities: CAP_SYS_TTY_CONFIG, names: "vhangup" },
    Group {
        capabilities: CAP_SYS_NICE,
        names: "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    },
];

/// Flags of clone(2) that make namespaces; CLONE_NEWTIME is not among clone's.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

// Address families (bits/socket.h): those of the kernel's cryptography and of virtual machines, which
// no namespace keeps apart.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

const fn socket(operator: Operator, family: u64) -> Conditional {
    let condition = Condition { argument: 0, operator, mask: u64::MAX, value: family };
    Conditional { name: "socket", unless: 0, condition }
}

/// What personality(2) may ask for: Linux, its 32-bit kind, either for a uname of 2.6; and which one
/// it is now. Not what takes the address space's randomness away.
const fn personality(value: u64) -> Conditional {
    Conditional { name: "personality", unless: 0, condition: Condition::equals(0, value) }
}

pub(super) const CONDITIONAL: [Conditional; 9] = [
    socket(Operator::ScmpCmpLt, AF_ALG),
    socket(Operator::ScmpCmpEq, AF_ALG + 1),
    socket(Operator::ScmpCmpGt, AF_VSOCK),
    personality(0),
    personality(8),
    personality(0x2_0000),
    personality(0x2_0008),
    personality(0xffff_ffff),
    Conditional {
        name: "clone",
        unless: CAP_SYS_ADMIN,
        condition: Condition {
            argument: 0,
            operator: Operator::ScmpCmpMaskedEq,
            mask: NEW_NAMESPACES,
            value: 0,
        },
    },
];

/// Its arguments are in memory, where no filter can look: programs are to fall back on clone(2).
pub(super) const ABSENT: &str = "clone3";
