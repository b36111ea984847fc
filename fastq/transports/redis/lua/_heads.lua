-- Put messages, by level, at the heads of their lists: of each level the last one given ends at the head. Needs push.
local function heads(back, ready, levels)
  for level, messages in pairs(back) do
    push('LPUSH', KEYS[ready + level], messages, 1, #messages)
    if level > 0 then
      redis.call('SADD', levels, level)
    end
  end
end
