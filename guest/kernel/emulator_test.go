package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/faultline-vm/faultline/guest"
)

// emulator runs the program as the processor and the devices of Firecracker
// would, so that its behaviour is tested where there is no KVM. It knows only the
// instructions that the assembler has and fails on any other, on memory that is
// not mapped, and on a halt from which nothing can wake it.
type emulator struct {
	pages map[uint64]*[guest.PageSize]byte // physical
	regs  [16]uint64
	rip   uint64
	cr3   uint64
	idt   uint64

	zero, carry, interrupts bool

	clock  uint64 // cycles; each instruction takes tick
	tick   uint64
	clocks []uint64 // what rdtsc answered

	input   []byte // waits in the serial port
	output  []byte
	ier     uint64            // the serial port's interrupt enable register
	devices map[uint64]uint64 // registers of the interrupt controllers
	wakes   int               // interrupts delivered
}

// newEmulator loads code as Firecracker's 64-bit boot protocol would.
func newEmulator(code []byte) *emulator {
	e := &emulator{pages: map[uint64]*[guest.PageSize]byte{}, devices: map[uint64]uint64{}, rip: guest.EntryAddress, cr3: 0x9000, tick: 1}
	for i, b := range code {
		e.page(guest.EntryAddress + uint64(i))[i%guest.PageSize] = b
	}
	put := func(at, v uint64) { binary.LittleEndian.PutUint64(e.page(at)[at%guest.PageSize:], v) }
	put(0x9000, 0xa000|tableFlags)
	put(0xa000, 0xb000|tableFlags)
	for i := range uint64(512) {
		put(0xb000+8*i, i<<21|memoryFlags)
	}
	return e
}

func (e *emulator) page(physical uint64) *[guest.PageSize]byte {
	n := physical / guest.PageSize
	if e.pages[n] == nil {
		e.pages[n] = new([guest.PageSize]byte)
	}
	return e.pages[n]
}

func (e *emulator) physical(at uint64) (uint64, error) {
	table := e.cr3
	for _, shift := range []uint{39, 30, 21} {
		slot := table&^0xfff + at>>shift&511*8
		if table = binary.LittleEndian.Uint64(e.page(slot)[slot%guest.PageSize:]); table&1 == 0 {
			return 0, fmt.Errorf("address %#x is not mapped", at)
		}
	}
	return table&^(bigPage-1) + at%bigPage, nil
}

// at returns the bytes from a virtual address to the end of its page.
func (e *emulator) at(address uint64) ([]byte, error) {
	p, err := e.physical(address)
	if err != nil {
		return nil, err
	}
	return e.page(p)[p%guest.PageSize:], nil
}

// fetch returns at least sixteen bytes, which may cross the end of a page.
func (e *emulator) fetch(address uint64) ([]byte, error) {
	b, err := e.at(address)
	if err != nil || len(b) >= 16 {
		return b, err
	}
	more, err := e.at(address + uint64(len(b)))
	return append(bytes.Clone(b), more...), err
}

func (e *emulator) load(at uint64) (uint64, error) {
	b, err := e.at(at)
	if err != nil || len(b) < 8 {
		return 0, fmt.Errorf("load from %#x: %w", at, err)
	}
	return binary.LittleEndian.Uint64(b), nil
}

func (e *emulator) store(at, v uint64, wide bool) error {
	if p, err := e.physical(at); err == nil && p >= ioapicAddress {
		if wide {
			return fmt.Errorf("64-bit store to device register %#x", p)
		}
		if p == ioapicAddress+ioapicWindow { // the register that was selected
			p += e.devices[ioapicAddress+ioapicSelect] << 8
		}
		e.devices[p] = v & (1<<32 - 1)
		return nil
	}
	b, err := e.at(at)
	if err != nil || len(b) < 8 {
		return fmt.Errorf("store to %#x: %w", at, err)
	}
	if wide {
		binary.LittleEndian.PutUint64(b, v)
	} else {
		binary.LittleEndian.PutUint32(b, uint32(v))
	}
	return nil
}

// run executes until the program halts without a byte to read, or until enough
// says so. It fails after limit instructions.
func (e *emulator) run(limit int, enough func() bool) error {
	for range limit {
		if enough != nil && enough() {
			return nil
		}
		at := e.rip
		idle, err := e.step()
		if err != nil {
			return fmt.Errorf("at %#x: %w", at, err)
		}
		if idle {
			return nil
		}
	}
	return fmt.Errorf("still running after %d instructions, at %#x", limit, e.rip)
}

// step executes one instruction; idle means that it was a halt that goes on.
func (e *emulator) step() (idle bool, err error) {
	e.clock += e.tick
	code, err := e.fetch(e.rip)
	if err != nil {
		return false, err
	}
	d := decoder{code: code}
	if code[0]>>4 == 4 {
		d.rex, d.at = code[0], 1
	}
	op := uint64(d.code[d.at])
	d.at++
	if op == 0x0f {
		op = op<<8 | uint64(d.code[d.at])
		d.at++
	}
	switch op {
	case 0xf4: // hlt
		if len(e.input) == 0 {
			e.clock -= e.tick
			return true, nil
		}
		e.rip += uint64(d.at)
		return false, e.interrupt()
	case 0xcf: // iretq
		return false, e.returnFromInterrupt()
	}
	next, err := e.execute(op, &d)
	e.rip += uint64(d.at) + next
	return false, err
}

// interrupt delivers the serial port's interrupt, if everything on its way lets
// it through.
func (e *emulator) interrupt() error {
	low := e.devices[ioapicAddress+ioapicWindow+ioapicSerialLow<<8]
	if !e.interrupts || e.ier&receivedDataAvailable == 0 || low == 0 || low>>16 != 0 || e.devices[lapicAddress+lapicSpurious]&lapicEnabled == 0 {
		return fmt.Errorf("halted, and no interrupt can come")
	}
	gate, err := e.load(e.idt + low*gateSize)
	if err != nil {
		return err
	}
	frame := e.regs[rsp] &^ 15
	flags := uint64(1 << 9)
	for i, v := range []uint64{0x10, e.regs[rsp], flags, codeSelector, e.rip} {
		if err := e.store(frame-8*uint64(i+1), v, true); err != nil {
			return err
		}
	}
	if gate>>16&0xffff != codeSelector || gate>>40&0xff != interruptGate {
		return fmt.Errorf("gate %#x is not an interrupt gate", gate)
	}
	e.regs[rsp], e.rip, e.interrupts = frame-40, gate&0xffff|gate>>48<<16, false
	e.devices[lapicAddress+lapicEnd] = 1
	e.wakes++
	return nil
}

func (e *emulator) returnFromInterrupt() error {
	if e.devices[lapicAddress+lapicEnd] != 0 {
		return fmt.Errorf("interrupt was not ended")
	}
	rip, err := e.load(e.regs[rsp])
	if err != nil {
		return err
	}
	stack, err := e.load(e.regs[rsp] + 24)
	e.rip, e.regs[rsp], e.interrupts = rip, stack, true
	return err
}

func (e *emulator) port(out bool) error {
	port := e.regs[rdx] & 0xffff
	switch {
	case out && port == serialPort:
		e.output = append(e.output, byte(e.regs[rax]))
	case out && port == serialInterruptEnable:
		e.ier = e.regs[rax] & 0xff
	case !out && port == serialPort && len(e.input) > 0:
		e.regs[rax] = e.regs[rax]&^0xff | uint64(e.input[0])
		e.input = e.input[1:]
	case !out && port == serialLineStatus:
		e.regs[rax] = e.regs[rax]&^0xff | 0x60 | uint64(min(len(e.input), 1))
	default:
		return fmt.Errorf("port %#x", port)
	}
	return nil
}

// result sets the flags that the program looks at.
func (e *emulator) result(v uint64, carry bool) uint64 {
	e.zero, e.carry = v == 0, carry
	return v
}

func (e *emulator) compute(op arith, a, b uint64) (v uint64, keep bool) {
	switch op {
	case add:
		sum, carry := bits.Add64(a, b, 0)
		return e.result(sum, carry != 0), true
	case or:
		return e.result(a|b, false), true
	case and:
		return e.result(a&b, false), true
	case xor:
		return e.result(a^b, false), true
	}
	difference, borrow := bits.Sub64(a, b, 0)
	return e.result(difference, borrow != 0), op == sub
}
