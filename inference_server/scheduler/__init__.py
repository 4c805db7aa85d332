"""Who draws when: the bounded queue, the device thread, and the events a picture's caller sees."""
