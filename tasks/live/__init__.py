"""A session: closed candle, decision, fill, journal, replay; one state machine for paper now and for orders later."""
