-- Keep a new join. ARGV from `at`: how many members, then level, delay (ms), due at (Unix ms) and message of its body.
-- `#` counts down to 0, closed. `unsealed`: it expires unless the call that opens it comes to its end.
local function open_join(key, at)
  redis.call('HSET', key, '#', ARGV[at], 'size', ARGV[at], 'level', ARGV[at + 1], 'delay', ARGV[at + 2], 'due', ARGV[at + 3],
    'body', ARGV[at + 4])
end
