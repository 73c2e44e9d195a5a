package kernel

import (
	"math/bits"

	"github.com/faultline-vm/faultline/guest"
)

// Guest-physical places of the program, beside those that package guest fixes.
const (
	// dataAddress is the page that holds the variables, from its start, and the
	// stack, from its end. It is not the code's page: on real processors stores
	// next to code are slow.
	dataAddress  = guest.EntryAddress + 64<<10
	stackAddress = dataAddress + guest.PageSize
)

// Variables, as offsets in the data page, which rbx points to. The first six are
// the fields of a report in the order in which they are printed.
const (
	varPass = 8 * iota
	varPages
	varBad
	varFirst
	varSeed
	varID
	varClass // of the pages that the newest write rewrote
	varAuto  // 1 in auto mode, else 0
)

// program emits the guest. Registers with a fixed meaning once start has run:
//
//	rbx  the variables
//	r12  the formula's factor of the page number
//	r13  the formula's factor of the word number
//	r14  the factor of guest.Mix
//	r15  cycle count before which no further page may be visited (with a rate)
//
// and during a pass over the pages:
//
//	rsi  number of the page        r8   visits that remain
//	rdi  address of the word       r9   bytes from page to page
//	rdx  argument of guest.Mix     r10  page numbers from visit to visit
//	rbp  seed of the page          r11  number of pages
//
// rax and rcx are scratch everywhere.
type program struct {
	*assembler
	w        guest.Workload
	interval uint64 // cycles between two page visits; 0 means unbounded
}

func variable(offset int32) mem { return mem{rbx, offset} }

// emit writes the whole program; its first instruction is the entry point.
func (p *program) emit() {
	p.start()
	p.commands()
	p.write()
	p.check()
	p.clear()
	p.report()
	p.print()
	p.interrupts()
}

// start makes the machine ready, fills the pages and falls into commands.
func (p *program) start() {
	p.cli()
	p.movImm(rsp, stackAddress)
	p.extendMap()
	p.enableInterrupts()
	p.movImm(rbx, dataAddress)
	p.movImm(r12, guest.PageFactor)
	p.movImm(r13, guest.WordFactor)
	p.movImm(r14, guest.MixFactor)
	if p.w.Auto {
		p.set(varAuto, 1)
	}

	// Every class begins with the workload's seed.
	p.movImm(rbp, p.w.Seed)
	p.store(variable(varSeed), rbp)
	p.movImm(rax, guest.StateAddress)
	p.movImm(rcx, p.w.Classes)
	p.label("seeds")
	p.store(mem{rax, 0}, rbp)
	p.arithImm(add, rax, 8)
	p.arithImm(sub, rcx, 1)
	p.jumpIf(notEqual, "seeds")

	p.pass("fill", func(string) {
		p.pace("fill")
		p.load(rbp, variable(varSeed))
	}, func(at mem) { p.store(at, rax) })
	p.call("clear")
	p.set(varPages, p.w.Pages)
	p.answer("ready")
}

// commands obeys one command after the other. In auto mode it only looks whether
// one has come, between two rounds.
func (p *program) commands() {
	p.label("commands")
	p.load(rax, variable(varAuto))
	p.arithImm(compare, rax, 0)
	p.jumpIf(equal, "wait")
	p.lookForByte("obey")
	p.call("write")
	p.call("check")
	p.jump("commands")

	// A byte that arrives after the look and before the halt is not lost: its
	// interrupt stays pending until sti, which takes effect after hlt has begun.
	p.label("wait")
	p.lookForByte("obey")
	p.sti()
	p.hlt()
	p.cli()
	p.jump("wait")

	p.label("obey")
	p.movImm(rdx, serialPort)
	p.in()
	p.arithImm(and, rax, 0xff)
	for _, c := range []struct {
		command byte
		label   string
	}{
		{guest.CommandPing, "ping"}, {guest.CommandCheck, "do check"}, {guest.CommandWrite, "do write"},
		{guest.CommandAuto, "auto"}, {guest.CommandStop, "stop"},
	} {
		p.arithImm(compare, rax, int32(c.command))
		p.jumpIf(equal, c.label)
	}
	p.jump("commands")

	p.label("ping")
	p.call("clear")
	p.answer("pong")
	p.jump("commands")

	p.label("do check")
	p.call("check")
	p.jump("commands")

	p.label("do write")
	p.call("write")
	p.jump("commands")

	p.label("auto")
	p.set(varAuto, 1)
	p.jump("commands")

	p.label("stop")
	p.set(varAuto, 0)
	p.call("clear")
	p.answer("stop")
	p.jump("commands")
}

// write is the routine that draws a seed, rewrites the next class and reports.
func (p *program) write() {
	p.label("write")
	p.call("clear")
	p.load(rax, variable(varPass))
	p.arithImm(add, rax, 1)
	p.store(variable(varPass), rax)
	p.arithImm(and, rax, int32(p.w.Classes-1))
	p.store(variable(varClass), rax)

	// The class holds every Classes-th page: a division that is a shift.
	p.movImm(rcx, p.w.Pages+p.w.Classes-1)
	p.arith(sub, rcx, rax)
	p.shift(shr, rcx, byte(bits.TrailingZeros64(p.w.Classes)))
	p.store(variable(varPages), rcx)

	// guest.NextSeed: Mix(Mix(previous + clock) + identity).
	p.rdtsc()
	p.shift(shl, rdx, 32)
	p.arith(or, rdx, rax)
	p.arithMem(add, rdx, variable(varSeed))
	p.mix()
	p.movImm(rdx, guest.IdentityAddress)
	p.load(rdx, mem{rdx, 0})
	p.arith(add, rdx, rax)
	p.mix()
	p.mov(rbp, rax)
	p.store(variable(varSeed), rbp)
	p.load(rcx, variable(varClass))
	p.shift(shl, rcx, 3)
	p.store(mem{rcx, guest.StateAddress}, rbp)

	p.pass("write", func(next string) {
		p.mov(rax, rsi)
		p.arithImm(and, rax, int32(p.w.Classes-1))
		p.arithMem(compare, rax, variable(varClass))
		p.jumpIf(notEqual, next)
		p.pace("write")
		p.load(rbp, variable(varSeed))
	}, func(at mem) { p.store(at, rax) })
	p.answer("write")
	p.ret()
}

// check is the routine that compares every page and reports.
func (p *program) check() {
	p.label("check")
	p.call("clear")
	p.set(varPages, p.w.Pages)
	p.pass("check", func(string) {
		p.pace("check")
		p.mov(rax, rsi)
		p.arithImm(and, rax, int32(p.w.Classes-1))
		p.shift(shl, rax, 3)
		p.load(rbp, mem{rax, guest.StateAddress})
	}, func(at mem) {
		p.arithMem(compare, rax, at)
		p.jumpIf(notEqual, "wrong")
	})
	p.answer("check")
	p.ret()

	// A wrong page counts once: the rest of it is not compared.
	p.label("wrong")
	p.load(rax, variable(varBad))
	p.arithImm(add, rax, 1)
	p.store(variable(varBad), rax)
	p.arithMem(compare, rsi, variable(varFirst)) // guest.NoPage is above all others
	p.jumpIf(notBelow, "check next")
	p.store(variable(varFirst), rsi)
	p.jump("check next")
}

// set stores a constant in a variable.
func (p *program) set(offset int32, value uint64) {
	p.movImm(rax, value)
	p.store(variable(offset), rax)
}

// clear is the routine that resets the fields of a report that each command fills
// anew.
func (p *program) clear() {
	p.label("clear")
	p.set(varPages, 0)
	p.set(varBad, 0)
	p.set(varFirst, guest.NoPage)
	p.ret()
}
