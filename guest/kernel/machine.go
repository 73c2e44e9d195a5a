package kernel

import (
	"encoding/binary"

	"github.com/faultline-vm/faultline/guest"
)

// tablesAddress is where the page tables lie that the program adds to those of
// the boot protocol, one page for each of the GiBs 3 (devices), 1 and 2.
const tablesAddress = 9 << 20

const (
	gib     = 1 << 30
	bigPage = 2 << 20

	tableFlags  = 0x03 // present, writable
	memoryFlags = 0x83 // present, writable, 2 MiB
	deviceFlags = 0x9b // the same, not cached
)

// extendMap maps the interrupt controllers, and the memory above 1 GiB that the
// workload reaches, to themselves.
func (p *program) extendMap() {
	// rdi = the table of GiBs: the first entry of the table that cr3 points to.
	p.loadCR3(rax)
	p.arithImm(and, rax, -guest.PageSize)
	p.load(rdi, mem{rax, 0})
	p.arithImm(and, rdi, -guest.PageSize)

	p.movImm(rcx, tablesAddress|tableFlags)
	p.store(mem{rdi, 3 * 8}, rcx)
	p.movImm(rcx, tablesAddress)
	for _, controller := range []uint64{ioapicAddress, lapicAddress} {
		p.movImm(rax, controller|deviceFlags)
		p.store(mem{rcx, int32(controller % gib / bigPage * 8)}, rax)
	}

	for _, g := range []struct {
		number uint64
		label  string
	}{{1, "map GiB 1"}, {2, "map GiB 2"}} {
		if p.w.End() <= g.number*gib {
			continue
		}
		table := tablesAddress + g.number*guest.PageSize
		p.movImm(rcx, table|tableFlags)
		p.store(mem{rdi, int32(g.number * 8)}, rcx)
		p.movImm(rcx, table)
		p.movImm(rax, g.number*gib|memoryFlags)
		p.label(g.label)
		p.store(mem{rcx, 0}, rax)
		p.arithImm(add, rax, bigPage)
		p.arithImm(add, rcx, 8)
		p.testImm(rcx, guest.PageSize-1)
		p.jumpIf(notEqual, g.label)
	}
}

// Interrupt controllers and what the program uses of them.
const (
	ioapicAddress    = 0xfec00000
	ioapicSelect     = 0x00 // number of the register that ioapicWindow shows
	ioapicWindow     = 0x10
	ioapicSerialLow  = 0x10 + 2*serialLine // redirection of the serial port's line:
	ioapicSerialHigh = ioapicSerialLow + 1 // vector and flags; destination

	lapicAddress  = 0xfee00000
	lapicEnd      = 0x0b0 // end of interrupt
	lapicSpurious = 0x0f0
	lapicEnabled  = 0x100 // in lapicSpurious
	lapicLine0    = 0x350
	lapicMasked   = 1 << 16 // in lapicLine0

	serialLine     = 4    // the input of the I/O APIC that Firecracker connects the serial port to
	serialVector   = 0x20 // the first that processors do not use themselves
	spuriousVector = 0xff

	codeSelector  = 0x08 // of the boot protocol's descriptor table
	interruptGate = 0x8e // present, 64 bits
	gateSize      = 16
)

// enableInterrupts lets a received byte wake the processor from hlt. Interrupts
// stay disabled everywhere else.
func (p *program) enableInterrupts() {
	p.movLabel(rax, "idtr")
	p.lidt(mem{rax, 0})

	p.movImm(rdx, lapicAddress)
	p.movImm(rax, lapicMasked) // nothing from the old controller, which nobody has set up
	p.store32(mem{rdx, lapicLine0}, rax)
	p.movImm(rax, lapicEnabled|spuriousVector)
	p.store32(mem{rdx, lapicSpurious}, rax)

	p.movImm(rdx, ioapicAddress)
	for _, r := range []struct{ number, value uint64 }{
		{ioapicSerialHigh, 0}, // to the first processor
		{ioapicSerialLow, serialVector},
	} {
		p.movImm(rax, r.number)
		p.store32(mem{rdx, ioapicSelect}, rax)
		p.movImm(rax, r.value)
		p.store32(mem{rdx, ioapicWindow}, rax)
	}

	p.movImm(rdx, serialInterruptEnable)
	p.movImm(rax, receivedDataAvailable)
	p.out()
}

// interrupts emits the handler and the interrupt table, whose only entry is the
// last one. The handler may use rax and rcx, because interrupts are only enabled
// where both are scratch; the byte itself is read by whoever halted.
func (p *program) interrupts() {
	p.label("interrupt")
	p.movImm(rax, lapicAddress)
	p.movImm(rcx, 0)
	p.store32(mem{rax, lapicEnd}, rcx)
	p.iretq()
	handler := p.address("interrupt")

	p.align(gateSize)
	table := p.origin + uint64(len(p.code))
	p.bytes(make([]byte, serialVector*gateSize)...)
	gate := binary.LittleEndian.AppendUint16(nil, uint16(handler))
	gate = binary.LittleEndian.AppendUint16(gate, codeSelector)
	gate = append(gate, 0, interruptGate)
	gate = binary.LittleEndian.AppendUint16(gate, uint16(handler>>16))
	gate = binary.LittleEndian.AppendUint64(gate, handler>>32)
	p.bytes(gate...)

	p.label("idtr")
	idtr := binary.LittleEndian.AppendUint16(nil, (serialVector+1)*gateSize-1)
	p.bytes(binary.LittleEndian.AppendUint64(idtr, table)...)
}
