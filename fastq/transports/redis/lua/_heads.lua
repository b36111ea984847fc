-- Put messages at the heads of their levels' lists: collected with to_head, written by heads. Of each level the last one collected ends
-- at the head. Needs push.
local function to_head(back, level, message)
  level = tonumber(level)
  back[level] = back[level] or {}
  table.insert(back[level], message)
end

local function heads(back, ready, levels)
  for level, messages in pairs(back) do
    push('LPUSH', KEYS[ready + level], messages, 1, #messages)
    if level > 0 then
      redis.call('SADD', levels, level)
    end
  end
end
