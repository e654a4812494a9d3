//! What an acceptable request head is: pure, shared by HTTP/1, 2 and 3.
