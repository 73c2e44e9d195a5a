package uffd

import "fmt"

// Message is one struct uffd_msg, 32 bytes, as the kernel writes it.
type Message struct {
	msg uffdMsg
}

// PagefaultMessage returns the message of a page fault, for tests of a fault
// loop without a kernel.
func PagefaultMessage(address uint64, flags PagefaultFlags) Message {
	return Message{uffdMsg{event: UFFD_EVENT_PAGEFAULT, arg: [3]uint64{uint64(flags), address}}}
}

// RemoveMessage returns the message of a removal of the addresses from start up
// to end, for tests of a fault loop without a kernel.
func RemoveMessage(start, end uint64) Message {
	return Message{uffdMsg{event: UFFD_EVENT_REMOVE, arg: [3]uint64{start, end}}}
}

// Event returns the kind of the message.
func (m *Message) Event() EventType {
	return m.msg.event
}

// Pagefault returns the faulting address, rounded down to the page unless
// UFFD_FEATURE_EXACT_ADDRESS is on, and why it faulted. Valid for
// UFFD_EVENT_PAGEFAULT.
func (m *Message) Pagefault() (address uint64, flags PagefaultFlags) {
	return m.msg.arg[1], PagefaultFlags(m.msg.arg[0])
}

// ThreadID returns the thread that faulted, or 0 without
// UFFD_FEATURE_THREAD_ID. Valid for UFFD_EVENT_PAGEFAULT.
func (m *Message) ThreadID() uint32 {
	return uint32(m.msg.arg[2])
}

// Remove returns the removed addresses, from start up to end. Valid for
// UFFD_EVENT_REMOVE and UFFD_EVENT_UNMAP.
func (m *Message) Remove() (start, end uint64) {
	return m.msg.arg[0], m.msg.arg[1]
}

// String describes the message for an error or a log.
func (m *Message) String() string {
	switch m.msg.event {
	case UFFD_EVENT_PAGEFAULT:
		address, flags := m.Pagefault()
		return fmt.Sprintf("pagefault at %#x, flags %#x", address, uint64(flags))
	case UFFD_EVENT_REMOVE, UFFD_EVENT_UNMAP:
		start, end := m.Remove()
		return fmt.Sprintf("%s of %#x-%#x", m.msg.event, start, end)
	default:
		return m.msg.event.String()
	}
}

// String returns the kernel's name of the event, in lower case.
func (e EventType) String() string {
	switch e {
	case UFFD_EVENT_PAGEFAULT:
		return "pagefault"
	case UFFD_EVENT_FORK:
		return "fork"
	case UFFD_EVENT_REMAP:
		return "remap"
	case UFFD_EVENT_REMOVE:
		return "remove"
	case UFFD_EVENT_UNMAP:
		return "unmap"
	default:
		return fmt.Sprintf("event %#x", uint8(e))
	}
}
