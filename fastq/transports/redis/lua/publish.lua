-- Keep messages in one queue, once, and wake as many idle processes as they need.
--
-- KEYS  1 from:<producer>, 2 idle, 3 levels, 4 delayed, 5.. the ready list of each level that follows
-- ARGV  1 sequence: rises with every call of this producer, 2 its predecessor if that must have been kept ('' if not),
--       3 how long the sequence is remembered (s), 4 prefix of the wake channels, 5 nonce (unique to this call),
--       6 number of level groups (as many ready lists), 7 number of delayed messages,
--       then per group: level, how many, the messages; then per delayed message: level, delay (ms) or '',
--       due at (Unix ms; counts where there is no delay), the message
-- Returns  server's clock (Unix ms), or -1: the predecessor was not kept, so nothing was done
--
-- RPUSH is the first write, so a server out of memory refuses the call as a whole (OOM); nothing after it can fail:
-- the types of the other keys were checked by reading them.
-- include: clock
-- include: wake
-- include: early
-- include: push
local now = clock()
local sequence = tonumber(ARGV[1])
local last = tonumber(redis.call('GET', KEYS[1]) or -1)
if last >= sequence then
  -- A repeat after a lost reply: the messages are in, and who had to wake was woken with them.
  return now
end
if ARGV[2] ~= '' and last ~= tonumber(ARGV[2]) then
  return -1
end

local groups = tonumber(ARGV[6])
local delays = tonumber(ARGV[7])
local idlers = redis.call('ZCARD', KEYS[2])
if groups > 1 then
  for group = 1, groups do
    redis.call('LLEN', KEYS[4 + group])
  end
  redis.call('SCARD', KEYS[3])
end
if delays > 0 then
  redis.call('ZCARD', KEYS[4])
end

local at = 8
local ready = 0
for group = 1, groups do
  local level = tonumber(ARGV[at])
  local count = tonumber(ARGV[at + 1])
  ready = ready + push('RPUSH', KEYS[4 + group], ARGV, at + 2, at + 1 + count)
  if level > 0 then
    redis.call('SADD', KEYS[3], level)
  end
  at = at + 2 + count
end

local earliest
for i = 1, delays do
  local due = tonumber(ARGV[at + 2])
  if ARGV[at + 1] ~= '' then
    due = now + tonumber(ARGV[at + 1])
  end
  local nonce = ARGV[5] .. i
  redis.call('ZADD', KEYS[4], due, ARGV[at] .. string.char(#nonce) .. nonce .. ARGV[at + 3])
  if not earliest or due < earliest then
    earliest = due
  end
  at = at + 4
end

redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])

if idlers > 0 then
  if ready > 0 then
    wake(KEYS[2], ARGV[4], math.min(ready, idlers))
  end
  if earliest then
    early(KEYS[2], ARGV[4], earliest)
  end
end
return now
