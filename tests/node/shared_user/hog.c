/* Takes all watches of epoll that the kernel gives its user, says so, and takes each one that
   becomes free. It needs no right. */
#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* With twice as many files, below the usual limit of 1024, it takes the square of this. */
enum { SIDE = 400 };

int main(void) {
  static int polls[SIDE], events[SIDE];
  for (int i = 0; i < SIDE; i++) {
    polls[i] = epoll_create1(0);
    events[i] = eventfd(0, 0);
    if (polls[i] < 0 || events[i] < 0) {
      perror("hog");
      return 1;
    }
  }
  int has_told = 0;
  for (int taken = 0; taken < SIDE * SIDE; taken++) {
    struct epoll_event want = {.events = EPOLLIN};
    while (epoll_ctl(polls[taken / SIDE], EPOLL_CTL_ADD, events[taken % SIDE], &want)) {
      if (errno != ENOSPC) {
        perror("hog");
        return 1;
      }
      if (!has_told) {
        printf("user %d has no watch left after %d\n", (int)getuid(), taken);
        fflush(stdout);
        has_told = 1;
      }
      usleep(1000);
    }
  }
  fprintf(stderr, "hog: the limit is higher than it reaches\n");
  return 1;
}
