-- The state of an entry of a timetable: "due last_due last_run runs paused edit by", numbers in Unix ms, paused 0 or 1.
local function entry(text)
  if not text then
    return nil
  end
  local due, last_due, last_run, runs, paused, edit, by = string.match(text, '^(%d+) (%d+) (%d+) (%d+) ([01]) (%d+) (.*)$')
  return {
    due = tonumber(due), last_due = tonumber(last_due), last_run = tonumber(last_run), runs = tonumber(runs),
    paused = paused, edit = tonumber(edit), by = by
  }
end

local function entry_text(state)
  return string.format('%.0f %.0f %.0f %.0f %s %.0f %s',
    state.due, state.last_due, state.last_run, state.runs, state.paused, state.edit, state.by)
end
