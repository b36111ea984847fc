"""The soak: a mixed workload at full speed on nodes of several pools, faults from a printed seed, and at the end a count.

``python -m tests.chaos.soak --minutes 10`` runs it (``make chaos MINUTES=10``). Where what is:

    workload.py   the application and its tasks; every run leaves a record that survives kill -9
    kinds.py      what is sent, and what must come of each
    producer.py   the process that sends; its ledger says what its calls had returned
    ledger.py     reads the ledger and the records of the runs
    checker.py    asks for the results while the soak runs, and so says how many tasks are unfinished
    fleet.py      the nodes and the broker, and which processes have been hit by what
    faults.py     what is done to them
    steering.py   the process that steers and watches them meanwhile: commands, pauses, questions, events, scrapes
    steered.py    reads what it has done
    beaters.py    the beats that share a timetable
    ticks.py      the count of what they have sent
    memory.py     how much memory each process has
    excuses.py    why a task may have run twice
    audit.py      the count at the end: each law that does not hold is told as a sentence
    leftovers.py  what is left in the broker
    report.py     the table
    site.py       all of it put together, __main__.py the command
"""
