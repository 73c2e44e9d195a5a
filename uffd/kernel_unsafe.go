package uffd

import (
	"structs"
	"unsafe"
)

// This file mirrors linux/userfaultfd.h, its names and its layout, up to Linux
// 6.8. A test compares it with the installed header.

// UFFD_API is the only version of the interface there has ever been.
const UFFD_API = 0xAA

// UFFD_USER_MODE_ONLY asks for a descriptor that sees only faults from user
// mode, which needs no permission (Linux 5.11).
const UFFD_USER_MODE_ONLY = 1

// Numbers of the ioctl commands, which are also the bits of [Ioctls].
const (
	_UFFDIO_REGISTER     = 0x00
	_UFFDIO_UNREGISTER   = 0x01
	_UFFDIO_WAKE         = 0x02
	_UFFDIO_COPY         = 0x03
	_UFFDIO_ZEROPAGE     = 0x04
	_UFFDIO_MOVE         = 0x05
	_UFFDIO_WRITEPROTECT = 0x06
	_UFFDIO_CONTINUE     = 0x07
	_UFFDIO_POISON       = 0x08
	_UFFDIO_API          = 0x3F
)

// Encoding of ioctl commands, asm-generic/ioctl.h: direction, size, type, number.
const (
	iocRead      = 2 << 30
	iocReadWrite = 3 << 30
	iocSizeShift = 16
	iocUFFDIO    = 0xAA << 8
)

// The ioctl commands. Those for UNREGISTER and WAKE say "read" although the
// kernel reads the argument: the header got it wrong and could not be changed.
const (
	USERFAULTFD_IOC_NEW = iocUFFDIO | 0x00
	UFFDIO_API          = iocReadWrite | unsafe.Sizeof(uffdioAPI{})<<iocSizeShift | iocUFFDIO | _UFFDIO_API
	UFFDIO_REGISTER     = iocReadWrite | unsafe.Sizeof(uffdioRegister{})<<iocSizeShift | iocUFFDIO | _UFFDIO_REGISTER
	UFFDIO_UNREGISTER   = iocRead | unsafe.Sizeof(uffdioRange{})<<iocSizeShift | iocUFFDIO | _UFFDIO_UNREGISTER
	UFFDIO_WAKE         = iocRead | unsafe.Sizeof(uffdioRange{})<<iocSizeShift | iocUFFDIO | _UFFDIO_WAKE
	UFFDIO_COPY         = iocReadWrite | unsafe.Sizeof(uffdioCopy{})<<iocSizeShift | iocUFFDIO | _UFFDIO_COPY
	UFFDIO_ZEROPAGE     = iocReadWrite | unsafe.Sizeof(uffdioZeropage{})<<iocSizeShift | iocUFFDIO | _UFFDIO_ZEROPAGE
	UFFDIO_WRITEPROTECT = iocReadWrite | unsafe.Sizeof(uffdioWriteprotect{})<<iocSizeShift | iocUFFDIO | _UFFDIO_WRITEPROTECT
	UFFDIO_POISON       = iocReadWrite | unsafe.Sizeof(uffdioPoison{})<<iocSizeShift | iocUFFDIO | _UFFDIO_POISON
)

// EventType is the kind of a [Message].
type EventType uint8

// The kinds of messages. PAGEFAULT always comes; each other one must be asked
// for with its feature.
const (
	UFFD_EVENT_PAGEFAULT EventType = 0x12
	UFFD_EVENT_FORK      EventType = 0x13
	UFFD_EVENT_REMAP     EventType = 0x14
	UFFD_EVENT_REMOVE    EventType = 0x15
	UFFD_EVENT_UNMAP     EventType = 0x16
)

// PagefaultFlags say why a thread faulted; 0 is a read of an absent page.
type PagefaultFlags uint64

// The flags of a PAGEFAULT message.
const (
	UFFD_PAGEFAULT_FLAG_WRITE PagefaultFlags = 1 << 0 // the access was a write
	UFFD_PAGEFAULT_FLAG_WP    PagefaultFlags = 1 << 1 // the page is there and write-protected
	UFFD_PAGEFAULT_FLAG_MINOR PagefaultFlags = 1 << 2 // the page is in the page cache and not mapped
)

// Features is a set of abilities of the kernel's userfaultfd.
type Features uint64

// The features, each with the first kernel that has it.
const (
	UFFD_FEATURE_PAGEFAULT_FLAG_WP  Features = 1 << 0  // 5.7
	UFFD_FEATURE_EVENT_FORK         Features = 1 << 1  // 4.11
	UFFD_FEATURE_EVENT_REMAP        Features = 1 << 2  // 4.11
	UFFD_FEATURE_EVENT_REMOVE       Features = 1 << 3  // 4.11
	UFFD_FEATURE_MISSING_HUGETLBFS  Features = 1 << 4  // 4.11
	UFFD_FEATURE_MISSING_SHMEM      Features = 1 << 5  // 4.11
	UFFD_FEATURE_EVENT_UNMAP        Features = 1 << 6  // 4.11
	UFFD_FEATURE_SIGBUS             Features = 1 << 7  // 4.14
	UFFD_FEATURE_THREAD_ID          Features = 1 << 8  // 4.14
	UFFD_FEATURE_MINOR_HUGETLBFS    Features = 1 << 9  // 5.13
	UFFD_FEATURE_MINOR_SHMEM        Features = 1 << 10 // 5.14
	UFFD_FEATURE_EXACT_ADDRESS      Features = 1 << 11 // 5.18
	UFFD_FEATURE_WP_HUGETLBFS_SHMEM Features = 1 << 12 // 5.19
	UFFD_FEATURE_WP_UNPOPULATED     Features = 1 << 13 // 6.4
	UFFD_FEATURE_POISON             Features = 1 << 14 // 6.6
	UFFD_FEATURE_WP_ASYNC           Features = 1 << 15 // 6.7
	UFFD_FEATURE_MOVE               Features = 1 << 16 // 6.8
)

// RegisterMode says which faults of a range become messages.
type RegisterMode uint64

// The modes of a registration, which can be combined.
const (
	UFFDIO_REGISTER_MODE_MISSING RegisterMode = 1 << 0
	UFFDIO_REGISTER_MODE_WP      RegisterMode = 1 << 1
	UFFDIO_REGISTER_MODE_MINOR   RegisterMode = 1 << 2
)

// CopyMode modifies [FD.Copy].
type CopyMode uint64

// The modes of UFFDIO_COPY. COPY_MODE_WP installs the pages write-protected and
// is EINVAL where the range is not registered for WP.
const (
	UFFDIO_COPY_MODE_DONTWAKE CopyMode = 1 << 0
	UFFDIO_COPY_MODE_WP       CopyMode = 1 << 1
)

// ZeroPageMode modifies [FD.ZeroPage].
type ZeroPageMode uint64

// UFFDIO_ZEROPAGE_MODE_DONTWAKE installs without waking whoever waits.
const UFFDIO_ZEROPAGE_MODE_DONTWAKE ZeroPageMode = 1 << 0

// WriteProtectMode modifies [FD.WriteProtect].
type WriteProtectMode uint64

// The modes of UFFDIO_WRITEPROTECT. Without MODE_WP the protection is lifted.
const (
	UFFDIO_WRITEPROTECT_MODE_WP       WriteProtectMode = 1 << 0
	UFFDIO_WRITEPROTECT_MODE_DONTWAKE WriteProtectMode = 1 << 1
)

// PoisonMode modifies [FD.Poison].
type PoisonMode uint64

// UFFDIO_POISON_MODE_DONTWAKE poisons without waking whoever waits.
const UFFDIO_POISON_MODE_DONTWAKE PoisonMode = 1 << 0

type uffdioAPI struct {
	_        structs.HostLayout
	api      uint64
	features Features
	ioctls   Ioctls
}

type uffdioRange struct {
	_     structs.HostLayout
	start uint64
	len   uint64
}

type uffdioRegister struct {
	_      structs.HostLayout
	rng    uffdioRange
	mode   RegisterMode
	ioctls Ioctls
}

type uffdioCopy struct {
	_    structs.HostLayout
	dst  uint64
	src  uint64
	len  uint64
	mode CopyMode
	copy int64
}

type uffdioZeropage struct {
	_        structs.HostLayout
	rng      uffdioRange
	mode     ZeroPageMode
	zeropage int64
}

type uffdioWriteprotect struct {
	_    structs.HostLayout
	rng  uffdioRange
	mode WriteProtectMode
}

type uffdioPoison struct {
	_       structs.HostLayout
	rng     uffdioRange
	mode    PoisonMode
	updated int64
}

// uffdMsg is struct uffd_msg, which is declared packed; its natural layout is
// the same. arg is the union: flags, address, feat of a page fault; start, end
// of REMOVE and UNMAP.
type uffdMsg struct {
	_         structs.HostLayout
	event     EventType
	reserved1 uint8
	reserved2 uint16
	reserved3 uint32
	arg       [3]uint64
}

// A size that differs is an index out of range, and does not compile.
var (
	_ = [1]struct{}{}[unsafe.Sizeof(uffdioAPI{})-24]
	_ = [1]struct{}{}[unsafe.Sizeof(uffdioRange{})-16]
	_ = [1]struct{}{}[unsafe.Sizeof(uffdioRegister{})-32]
	_ = [1]struct{}{}[unsafe.Sizeof(uffdioCopy{})-40]
	_ = [1]struct{}{}[unsafe.Sizeof(uffdioZeropage{})-32]
	_ = [1]struct{}{}[unsafe.Sizeof(uffdioWriteprotect{})-24]
	_ = [1]struct{}{}[unsafe.Sizeof(uffdioPoison{})-32]
	_ = [1]struct{}{}[unsafe.Sizeof(uffdMsg{})-32]
	_ = [1]struct{}{}[unsafe.Offsetof(uffdMsg{}.arg)-8]
)
