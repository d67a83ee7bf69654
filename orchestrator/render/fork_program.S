# What a fork has done for it in one process, where a shell would start a dozen: each costs an emulated guest a
# twentieth of a second. Its arguments are letters, each with what it is about:
#
# What differs from fork to fork is read from standard input, in one piece:
#
#   16 bytes   time, struct timespec
#   48 bytes   card, struct sockaddr: hardware address, address, netmask
#   120 bytes  route, struct rtentry
#
#   t             set the clock to `time`
#   g             reseed the kernel's random numbers; standard output is /dev/urandom
#   f FILE        512 random bytes into FILE, if it is there
#   d DIRECTORY   make it, if it is not there
#   m FROM TO     rename
#   l TARGET LINK symbolic link in place of LINK
#   r FILE        remove, if it is there
#   b FROM TO     mount FROM over TO, if that can be done
#   c CARD        hardware address, address, netmask and route of `card` and `route`
#   s             sync
#   p             sleep for `pause`, ten seconds
#
# Its status is the sum of what failed: 1 the clock, 2 the random numbers, 4 a file, 8 the card; 64 an unknown letter.
#
#   as --64 fork_program.S -o fork_program.o
#   objcopy -O binary -j .text fork_program.o fork_program.bin
#
# `fork_program.py` holds the result.
.globl _start
_start:
  leaq 16(%rsp),%r12
  subq $192,%rsp
  movq %rsp,%r9           # the values; the stack of a new process is zero
  xorl %edi,%edi
  movq %r9,%rsi
  movl $184,%edx
  xorl %eax,%eax
  syscall
  movl %eax,184(%r9)      # how much there is of them
  xorl %ebx,%ebx
next:
  movq (%r12),%rax
  testq %rax,%rax
  jz end
  movzbl (%rax),%eax
  movq 8(%r12),%rdi
  movq 16(%r12),%rsi
  xorl %edx,%edx
  xorl %r8d,%r8d
  movl $4,%r13d
  cmpb $'t',%al
  je time_of_day
  cmpb $'g',%al
  je reseed
  cmpb $'f',%al
  je fill
  cmpb $'d',%al
  je directory
  cmpb $'m',%al
  je rename
  cmpb $'l',%al
  je link
  cmpb $'r',%al
  je remove
  cmpb $'b',%al
  je bind
  cmpb $'c',%al
  je card_of
  cmpb $'s',%al
  je sync_all
  cmpb $'p',%al
  je rest
  movl $64,%ebx
end:
  movl %ebx,%edi
  movl $60,%eax
  syscall

# One call; what r13 says is added to the status if it fails.
try:
  syscall
  testq %rax,%rax
  jns 1f
  orl %r13d,%ebx
1:
  ret

time_of_day:
  addq $8,%r12
  movl $1,%r13d
  cmpl $184,184(%r9)
  jne lacking
  xorl %edi,%edi
  movq %r9,%rsi
  movl $227,%eax
  call try
  jmp next

# What needs the values fails without them.
lacking:
  orl %r13d,%ebx
  jmp next

reseed:
  addq $8,%r12
  movl $2,%r13d
  movl $1,%edi
  movl $0x5207,%esi
  movl $16,%eax
  call try
  jmp next

fill:
  addq $16,%r12
  xorl %r13d,%r13d
  movl $0x201,%esi        # O_WRONLY, O_TRUNC
  movl $2,%eax
  call try
  testq %rax,%rax
  js next
  movl %eax,%ebp
  subq $512,%rsp
  movl $4,%r13d
  movq %rsp,%rdi
  movl $512,%esi
  movl $318,%eax
  call try
  movl %ebp,%edi
  movq %rsp,%rsi
  movl $512,%edx
  movl $1,%eax
  call try
  addq $512,%rsp
  jmp next

directory:
  addq $16,%r12
  xorl %r13d,%r13d
  movl $0755,%esi
  movl $83,%eax
  call try
  jmp next

rename:
  addq $24,%r12
  movl $82,%eax
  call try
  jmp next

link:
  addq $24,%r12
  pushq %rdi
  pushq %rsi
  movq %rsi,%rdi
  xorl %r13d,%r13d
  movl $87,%eax
  call try
  popq %rsi
  popq %rdi
  movl $4,%r13d
  movl $88,%eax
  call try
  jmp next

remove:
  addq $16,%r12
  xorl %r13d,%r13d
  movl $87,%eax
  call try
  jmp next

bind:
  addq $24,%r12
  xorl %r13d,%r13d
  movl $4096,%r10d        # MS_BIND
  movl $165,%eax
  call try
  jmp next

sync_all:
  addq $8,%r12
  movl $162,%eax
  call try
  jmp next

rest:
  addq $8,%r12
  leaq pause(%rip),%rdi
  xorl %esi,%esi
  movl $35,%eax
  call try
  jmp next

card_of:
  addq $16,%r12
  movl $8,%r13d
  cmpl $184,184(%r9)
  jne lacking
  movq %rdi,%r14
  subq $40,%rsp           # struct ifreq
  xorl %eax,%eax
  movq %rax,(%rsp)
  movq %rax,8(%rsp)
  movq %rax,16(%rsp)
  movq %rax,24(%rsp)
  movq %rax,32(%rsp)
  xorl %ecx,%ecx
1:
  movb (%r14,%rcx),%al
  testb %al,%al
  jz 2f
  movb %al,(%rsp,%rcx)
  incl %ecx
  cmpl $15,%ecx
  jb 1b
2:
  movl $2,%edi
  movl $2,%esi
  movl $41,%eax           # a socket to ask by
  call try
  movl %eax,%r15d
  leaq 16(%r9),%r14
  movl $0x8924,%ebp       # SIOCSIFHWADDR
  call ask
  movl $0x8916,%ebp       # SIOCSIFADDR
  call ask
  movl $0x891c,%ebp       # SIOCSIFNETMASK
  call ask
  addq $40,%rsp
  leaq 64(%r9),%rdx
  cmpw $0,24(%rdx)        # no gateway
  je next
  movl %r15d,%edi
  movl $0x890b,%esi       # SIOCADDRT
  movl $16,%eax
  syscall
  cmpq $-17,%rax          # it is there
  je next
  testq %rax,%rax
  jns next
  orl %r13d,%ebx
  jmp next

ask:
  movups (%r14),%xmm0
  movups %xmm0,24(%rsp)
  addq $16,%r14
  movl %r15d,%edi
  movl %ebp,%esi
  leaq 8(%rsp),%rdx
  movl $16,%eax
  jmp try

  .balign 8,0
pause:
  .quad 10, 0             # struct timespec
