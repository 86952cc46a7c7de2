"""Microcontrollers: the model as C source, and Vela's estimates for the Ethos-U. The scripts are in mcu/."""
