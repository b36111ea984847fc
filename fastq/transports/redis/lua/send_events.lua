-- Append batches to the stream of events.
--
-- KEYS  1 events
-- ARGV  1 how many batches are kept, about, 2 how long the stream is kept after the last (s), 3.. the batches
-- Returns  nothing
local key, keep = KEYS[1], ARGV[1]
for i = 3, #ARGV do
  redis.call('XADD', key, 'MAXLEN', '~', keep, '*', 'b', ARGV[i])
end
redis.call('EXPIRE', key, ARGV[2])
